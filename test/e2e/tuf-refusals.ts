/** The words in which each of the four TUF clients refuses. */
import type { TufClientName } from './tuf-clients.ts'

export type Refusal = Readonly<Record<TufClientName, RegExp>>

function unsigned(role: string): Refusal {
  return {
    'go-tuf v2': new RegExp(`^unsigned metadata error: Verifying ${role} failed, not enough signatures`),
    'go-tuf 0.7':
      role === 'root'
        ? /^tuf: (?:valid signatures did not meet threshold|data has no signatures)$/
        : new RegExp(
            `^tuf: failed to decode ${role}.json: tuf: (?:valid signatures did not meet|data has no signatures)`,
          ),
    'tuf-js': new RegExp(`${role} was signed by \\d/\\d keys$`),
    'python-tuf': new RegExp(`^UnsignedMetadataError: ${role} was signed by \\d/\\d keys$`),
  }
}

function expired(role: string): Refusal {
  return {
    'go-tuf v2': new RegExp(`^expired metadata error: (?:final )?${role}(?:\\.json)? is expired$`),
    'go-tuf 0.7': new RegExp(`^tuf: failed to decode ${role}.json: expired at `),
    'tuf-js': new RegExp(`${role}(?:\\.json)? is expired$`),
    'python-tuf': new RegExp(`^ExpiredMetadataError: (?:Final )?${role}(?:\\.json)? is expired$`),
  }
}

/** A mirror's answer to the question for the next root, where it is neither a root nor a 404. */
function notFound(status: number): Refusal {
  return {
    'go-tuf v2': new RegExp(`^failed to download .*\\d\\.root\\.json, http status code: ${status}$`),
    'go-tuf 0.7': new RegExp(`^tuf: failed to download \\d+\\.root\\.json: .*unexpected HTTP status ${status}$`),
    'tuf-js': /^Error: Failed to download$/,
    'python-tuf': new RegExp(`^DownloadHTTPError: HTTP error occurred with status ${status}$`),
  }
}

export const refusals = {
  unsignedRoot: unsigned('root'),
  unsignedTimestamp: unsigned('timestamp'),
  unsignedTargets: unsigned('targets'),
  expiredTimestamp: expired('timestamp'),
  expiredSnapshot: expired('snapshot'),
  expiredTargets: expired('targets'),
  expiredRoot: expired('root'),
  signedTwice: {
    'go-tuf v2': /^value error: multiple signatures found for key ID [0-9a-f]{64}$/,
    'go-tuf 0.7': /^tuf: (?:failed to decode targets.json: tuf: )?valid signatures did not meet threshold$/,
    'tuf-js': /multiple signatures found for keyid: [0-9a-f]{64}$/,
    'python-tuf': /^DeserializationError: Failed to deserialize JSON$/,
  },
  lowerTimestamp: {
    'go-tuf v2': /^bad version number error: new timestamp version \d+ must be >= \d+$/,
    'go-tuf 0.7': /^tuf: failed to decode timestamp.json: version \d+ is lower than current version \d+$/,
    'tuf-js': /^Error: New timestamp version \d+ is less than current version \d+$/,
    'python-tuf': /^BadVersionNumberError: New timestamp version \d+ must be >= \d+$/,
  },
  lowerSnapshot: {
    'go-tuf v2': /^bad version number error: new snapshot version \d+ must be >= \d+$/,
    'go-tuf 0.7': /^version \d+ is lower than current version \d+$/,
    'tuf-js': /^Error: New snapshot version \d+ is less than current version \d+$/,
    'python-tuf': /^BadVersionNumberError: New snapshot version must be >= \d+, got version \d+$/,
  },
  lowerTargets: {
    'go-tuf v2': /^bad version number error: expected targets.json version \d+, got \d+$/,
    'go-tuf 0.7': /^version \d+ is lower than current version \d+$/,
    'tuf-js': /New version \d+ of targets.json is less than current version \d+$/,
    'python-tuf': /^BadVersionNumberError: Expected targets.json version \d+, got \d+\.$/,
  },
  otherRoot: {
    'go-tuf v2': /^bad version number error: bad version number, expected \d+, got \d+$/,
    'go-tuf 0.7': /^version \d+ does not match the expected version \d+$/,
    'tuf-js': /^Error: Expected version \d+, got \d+$/,
    'python-tuf': /^BadVersionNumberError: Expected root version \d+ instead got version \d+$/,
  },
  otherSnapshot: {
    'go-tuf v2': /^bad version number error: expected \d+, got \d+$/,
    'go-tuf 0.7': /^tuf: failed to download snapshot.json: wrong version, expected \d+ got \d+$/,
    'tuf-js': /Snapshot version doesn't match timestamp$/,
    'python-tuf': /^BadVersionNumberError: Expected snapshot version \d+, got \d+$/,
  },
  otherTargets: {
    'go-tuf v2': /^bad version number error: expected targets version \d+, got \d+$/,
    'go-tuf 0.7': /^tuf: failed to download targets.json: wrong version, expected \d+ got \d+$/,
    'tuf-js': /Version \d+ of targets does not match snapshot version \d+$/,
    'python-tuf': /^BadVersionNumberError: Expected targets v\d+, got v\d+\.$/,
  },
  otherFile: {
    'go-tuf v2': /^target trusted_root.json: length\/hash verification error: /,
    'go-tuf 0.7': /tuf: unexpected file size: trusted_root.json /,
    'tuf-js': /^Error: Expected length \d+ but got \d+$/,
    'python-tuf': /^LengthOrHashMismatchError: Observed length \d+ does not match expected length \d+$/,
  },
  forbidden: notFound(403),
  failing: notFound(500),
  notJson: {
    'go-tuf v2': /^invalid character '<' looking for beginning of value$/,
    'go-tuf 0.7': /^invalid character '<' looking for beginning of value$/,
    'tuf-js': /^SyntaxError: Unexpected token '<'/,
    'python-tuf': /^DeserializationError: Failed to deserialize JSON$/,
  },
  tooLarge: {
    'go-tuf v2': /^download length mismatch error: .* length \d+ is larger than expected \d+$/,
    'go-tuf 0.7': /^tuf: \d+\.root\.json size \d+ bytes greater than maximum \d+ bytes$/,
    'tuf-js': /^Error: Max length reached$/,
    'python-tuf': /^DownloadLengthMismatchError: Downloaded \d+ bytes exceeding the maximum allowed length of \d+$/,
  },
} satisfies Record<string, Refusal>
