export { type PublishedTrust, readPublished } from './published.ts'
