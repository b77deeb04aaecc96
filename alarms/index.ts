/** What an operator is told: the catalogue of codes, errors that carry one, and the alarms of a running process. */
export { Alarms, type Alarm } from './alarms.ts'
export { CATALOGUE, type Code, type Condition, EXIT, type ExitStatus } from './catalogue.ts'
export { OperatorError } from './operator-error.ts'
