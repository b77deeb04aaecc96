/** A log on the agent's stand-in, for the parts above the logs. */
export { type AgentDouble, makeAgentDouble } from '../../transparency-log/agent-double.fixture.ts'
