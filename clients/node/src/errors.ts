// What can go wrong, and which of it passes.

import { status, type ServiceError } from "@grpc/grpc-js";
import protobuf from "protobufjs";

/** For the caller's own function to throw when Salesforce answers 401: its access token is dead. */
export class Unauthorized extends Error {
  override name = "Unauthorized";
}

/** Salesforce's token endpoint did not do what it was asked. `error` is its word for it, if it had one. */
export class SalesforceError extends Error {
  override name = "SalesforceError";
  /** Without a status there was no answer. */
  readonly status: number | undefined;
  readonly error: string;
  readonly description: string;
  readonly #unsent: boolean;

  constructor(status?: number, error = "", description = "", unsent = false) {
    super(status === undefined ? "Salesforce did not answer" : `Salesforce answered ${status} ${error}`.trimEnd());
    this.status = status;
    this.error = error;
    this.description = description;
    this.#unsent = unsent;
  }

  /**
   * Whether Salesforce may have taken the refresh token, or may take it yet. Not if the request was never sent, or was
   * refused, or answered by 503, which says that it was not carried out. Where another request with the same token is
   * being processed, that one may take it.
   */
  get inDoubt(): boolean {
    if (this.status === undefined) return !this.#unsent;
    if (/being processed/i.test(this.description)) return true;
    return this.status < 300 || (this.status >= 500 && this.status !== 503);
  }

  /**
   * Whether the refresh token is not good any more, and the customer has to consent again. What Salesforce says by
   * `invalid_grant` of addresses, hours, users and whole orgs passes, and the token is as good as before.
   */
  get tokenIsDead(): boolean {
    const passes = /ip restricted|login hours|inactive user|inactive org|being processed/i.test(this.description);
    return this.status === 400 && this.error === "invalid_grant" && !passes;
  }

  get mayPass(): boolean {
    return this.status === undefined || this.status === 429 || this.status === 503;
  }
}

/**
 * The service refused. `reason` is one of those in triseal's interface, empty if the call did not reach a decision.
 */
export class TrisealError extends Error {
  override name = "TrisealError";
  readonly code: status;
  readonly reason: string;
  readonly retryAfterMs: number | undefined;

  constructor(code: status, reason: string, message: string, retryAfterMs?: number) {
    super(`${status[code]} ${reason}`.trimEnd() + `: ${message}`);
    this.code = code;
    this.reason = reason;
    this.retryAfterMs = retryAfterMs;
  }

  static of(error: ServiceError): TrisealError {
    const reason = String(error.metadata?.get("triseal-reason")[0] ?? "");
    const kind = reason === "NEEDS_REAUTH" ? NeedsReauth : TrisealError;
    return new kind(error.code, reason, error.details, retryAfterMs(error));
  }

  /**
   * Whether nothing was decided, or nobody knows what: the same call, under the same idempotency key, may be made again.
   */
  get isUndecided(): boolean {
    // KMS_REFUSED is UNAVAILABLE, too, but someone has to act.
    if (this.reason === "KMS_REFUSED") return false;
    return UNDECIDED.has(this.code) || (this.code === status.INTERNAL && this.reason === "");
  }

  /** After how many milliseconds the same call may be made again. Undefined: it would be refused again. */
  delayMs(attempt: number): number | undefined {
    // That is an answer. The next call is another one.
    if (this.reason === "REFRESH_IN_PROGRESS") return undefined;
    if (this.retryAfterMs !== undefined) return this.retryAfterMs + Math.random() * 100;
    return this.isUndecided || this.reason === "CHANGED_CONCURRENTLY" ? backoffMs(attempt) : undefined;
  }
}

/** The customer has to consent again: no refresh token is good any more. Store the new connection, and calls go on. */
export class NeedsReauth extends TrisealError {
  override name = "NeedsReauth";
}

/** 0.1 s, doubled to 2 s at most, give or take a half. */
export function backoffMs(attempt: number): number {
  return Math.min(100 * 2 ** attempt, 2_000) * (0.5 + Math.random());
}

const UNDECIDED = new Set([status.UNAVAILABLE, status.DEADLINE_EXCEEDED, status.CANCELLED, status.UNKNOWN]);

// The part of google/rpc/status.proto and error_details.proto that is read here.
const details = protobuf.Root.fromJSON({
  nested: {
    Status: { fields: { details: { rule: "repeated", type: "Any", id: 3 } } },
    Any: { fields: { typeUrl: { type: "string", id: 1 }, value: { type: "bytes", id: 2 } } },
    RetryInfo: { fields: { retryDelay: { type: "Duration", id: 1 } } },
    Duration: { fields: { seconds: { type: "int64", id: 1 }, nanos: { type: "int32", id: 2 } } },
  },
});

function decode<T>(type: string, octets: Uint8Array): T {
  const found = details.lookupType(type);
  return found.toObject(found.decode(octets), { longs: Number, defaults: true, arrays: true }) as T;
}

function retryAfterMs(error: ServiceError): number | undefined {
  const octets = error.metadata?.get("grpc-status-details-bin")[0];
  if (!(octets instanceof Uint8Array)) return undefined;
  const found = decode<{ details: { typeUrl: string; value: Uint8Array }[] }>("Status", octets);
  const info = found.details.find((detail) => detail.typeUrl.endsWith("/google.rpc.RetryInfo"));
  if (info === undefined) return undefined;
  const { retryDelay } = decode<{ retryDelay: { seconds: number; nanos: number } | null }>("RetryInfo", info.value);
  return retryDelay ? retryDelay.seconds * 1_000 + retryDelay.nanos / 1e6 : 0;
}
