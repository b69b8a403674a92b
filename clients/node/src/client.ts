// The client, and docs/REFRESH.md's protocol. It reads downward: what products call, then the steps of a refresh, then
// single calls.

import { randomUUID } from "node:crypto";
import { setTimeout as sleepFor } from "node:timers/promises";

import * as grpc from "@grpc/grpc-js";

import { Channel, type Endpoint } from "./channel.js";
import { backoffMs, SalesforceError, TrisealError, Unauthorized } from "./errors.js";
import type { AbandonCause } from "./generated/triseal/v1/AbandonCause.js";
import type { AcquireRefreshRequest } from "./generated/triseal/v1/AcquireRefreshRequest.js";
import type { AcquireRefreshResponse__Output } from "./generated/triseal/v1/AcquireRefreshResponse.js";
import type { Credential__Output } from "./generated/triseal/v1/Credential.js";
import type { DecryptCredentialResponse__Output } from "./generated/triseal/v1/DecryptCredentialResponse.js";
import type { EncryptCredentialResponse__Output } from "./generated/triseal/v1/EncryptCredentialResponse.js";
import type { GetCredentialResponse__Output } from "./generated/triseal/v1/GetCredentialResponse.js";
import type { RefreshLease__Output } from "./generated/triseal/v1/RefreshLease.js";
import type { SalesforceOAuth, SalesforceOAuth__Output } from "./generated/triseal/v1/SalesforceOAuth.js";
import type { Secret__Output } from "./generated/triseal/v1/Secret.js";
import {
  HTTP_TIMEOUT_MS,
  refresh,
  revoke,
  tokens,
  tokenUrlOf,
  type ConnectedApp,
  type TokenAnswer,
} from "./salesforce.js";

/** One call, unless it waits for somebody else's refresh. */
const CALL_MS = 5_000;
const WAIT_S = 8;
const CALL_THAT_WAITS_MS = 10_000;
const LEASE_S = 60;
/** What has to remain of a lease after the call to Salesforce, to bring its answer. */
const RESERVE_MS = 15_000;
/** For how long new tokens are brought again and again: they may be the only living ones. */
const BRING_MS = 300_000;
const CLOSE_MS = 30_000;
/** So many refused access tokens in a row, each newer than the one before, mean that Salesforce refuses more. */
const MAX_REFUSED = 3;

export interface ClientOptions extends Endpoint {
  app: ConnectedApp;
}

export interface StoreOptions {
  /** Where the answer came from; by default it is derived from the answer's `id`. */
  tokenUrl?: string;
  /** 0: nothing may be stored there yet. N: that revision must be. Absent: it is written over. */
  ifRevision?: number | string;
  /** For whoever may be stopped on the way: under one key the same answer is stored once. */
  idempotencyKey?: string;
  timeoutMs?: number;
}

interface Place {
  customerId: string;
  credentialId: string;
}

/** A call of the stub, which it makes with these options. */
type Call<T> = (options: grpc.CallOptions, done: grpc.requestCallback<T>) => void;

/** One for a process. */
export class Client {
  readonly #app: ConnectedApp;
  readonly #channel: Channel;
  /** What is done with leases. */
  readonly #underWay = new Set<Promise<void>>();

  constructor({ app, ...options }: ClientOptions) {
    this.#app = app;
    this.#channel = new Channel(options);
  }

  /** Ends the connections. A refresh that is under way is waited for, up to 30 s. */
  async close(): Promise<void> {
    await Promise.race([Promise.allSettled(this.#underWay), sleepFor(CLOSE_MS, undefined, { ref: false })]);
    this.#channel.close();
  }

  /** Stores the answer of Salesforce's token endpoint after a customer's consent. */
  async storeConnection(
    customerId: string,
    credentialId: string,
    answer: TokenAnswer,
    { tokenUrl, ifRevision, idempotencyKey = randomUUID(), timeoutMs = 30_000 }: StoreOptions = {},
  ): Promise<Credential__Output> {
    if (!answer.access_token) {
      throw new TypeError("this is not an answer with tokens of Salesforce's token endpoint");
    }
    const secret = { salesforceOauth: tokens(answer, tokenUrl ?? tokenUrlOf(answer)) };
    const request = {
      customerId,
      credentialId,
      secret,
      idempotencyKey,
      ...(ifRevision !== undefined && { ifRevision }),
    };
    const deadline = performance.now() + timeoutMs;
    const stored = await call<EncryptCredentialResponse__Output>(
      (options, done) => this.#channel.stub.encryptCredential(request, options, done),
      deadline,
    );
    return stored.credential!;
  }

  /**
   * Makes a call with an access token, and again with newer tokens when it throws `Unauthorized`.
   *
   * Throws `NeedsReauth` if the customer has to consent again, `SalesforceError` or `TrisealError` if there was no living
   * token in time. It takes longer only where it holds the lease: what was begun at Salesforce has to be brought to an end.
   */
  async callWithToken<T>(
    customerId: string,
    credentialId: string,
    make: (accessToken: string, instanceUrl: string) => Promise<T>,
    { timeoutMs = 45_000 }: { timeoutMs?: number } = {},
  ): Promise<T> {
    const deadline = performance.now() + timeoutMs;
    let rejected: string | undefined;
    for (let refused = 1; ; refused++) {
      const fresh = await this.#fresh({ customerId, credentialId }, rejected, deadline);
      const { accessToken, instanceUrl } = oauth(fresh.secret);
      try {
        return await make(accessToken, instanceUrl);
      } catch (error) {
        if (!(error instanceof Unauthorized) || refused === MAX_REFUSED) throw error;
      }
      rejected = fresh.credential!.revision;
    }
  }

  /**
   * Revokes the connection at Salesforce, and erases it. May be repeated.
   *
   * What was revoked is erased, and takes longer than `timeoutMs` if need be. What a customer who connects anew has stored
   * meanwhile is left alone.
   *
   * False: it was erased, or was gone, without being revoked: there was no refresh token that this caller may see, as in
   * NEEDS_REAUTH.
   */
  async disconnect(
    customerId: string,
    credentialId: string,
    { timeoutMs = 45_000 }: { timeoutMs?: number } = {},
  ): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    const place = { customerId, credentialId };
    let lease;
    try {
      const known = await call<GetCredentialResponse__Output>(
        (options, done) => this.#channel.stub.getCredential(place, options, done),
        deadline,
      );
      const { revision } = known.credential!;
      try {
        lease = await this.#lease(place, revision, deadline);
      } catch (error) {
        if (!hasReason(error, "NEEDS_REAUTH", "NOT_REFRESHABLE")) throw error;
        const erase = { ...place, ifRevision: revision };
        await call((options, done) => this.#channel.stub.deleteCredential(erase, options, done), deadline);
        return false;
      }
    } catch (error) {
      if (!hasReason(error, "CREDENTIAL_NOT_FOUND")) throw error;
      return false;
    }
    await this.#begun(this.#revoke(lease));
    return true;
  }

  // --- The steps of a refresh ---

  /** Tokens that are newer than the rejected ones, whoever refreshes them. */
  async #fresh(
    place: Place,
    rejected: string | undefined,
    deadline: number,
  ): Promise<DecryptCredentialResponse__Output> {
    for (;;) {
      const [outcome, began] = await this.#acquire(place, rejected, deadline);
      if (outcome.fresh) return outcome.fresh;
      await this.#begun(this.#refresh(outcome.lease!, began, deadline));
    }
  }

  async #begun(work: Promise<void>): Promise<void> {
    this.#underWay.add(work);
    try {
      await work;
    } finally {
      this.#underWay.delete(work);
    }
  }

  /** The lease, at whatever revision the credential comes to. */
  async #lease(place: Place, revision: string, deadline: number): Promise<RefreshLease__Output> {
    for (;;) {
      const [outcome] = await this.#acquire(place, revision, deadline);
      if (outcome.lease) return outcome.lease;
      revision = outcome.fresh!.credential!.revision;
    }
  }

  /** An answer, and since when a lease in it may have been running, by this machine's clock. */
  async #acquire(
    place: Place,
    rejected: string | undefined,
    deadline: number,
  ): Promise<[AcquireRefreshResponse__Output, number]> {
    for (;;) {
      const request = {
        ...place,
        ...(rejected !== undefined && { rejectedRevision: rejected }),
        wait: { seconds: WAIT_S },
        leaseTtl: { seconds: LEASE_S },
        // New for each call, and the same when it is tried again: then a lease whose answer was lost is given again.
        idempotencyKey: randomUUID(),
      };
      const began = performance.now();
      const make: Call<AcquireRefreshResponse__Output> = (options, done) =>
        this.#channel.stub.acquireRefresh(request, options, done);
      try {
        return [await call(make, deadline, CALL_THAT_WAITS_MS), began];
      } catch (error) {
        if (rejected !== undefined && error instanceof TrisealError && error.isUndecided) {
          // Whoever rejects a token may have got a lease of which nobody knows. The others need not wait for its end.
          void this.#begun(this.#withdraw(request));
        }
        if (!hasReason(error, "REFRESH_IN_PROGRESS")) throw error;
        await sleep((error as TrisealError).retryAfterMs ?? backoffMs(0), deadline, error);
      }
    }
  }

  /** Gives the lease back that a request may have got: it was never used. */
  async #withdraw(request: AcquireRefreshRequest): Promise<void> {
    const make: Call<AcquireRefreshResponse__Output> = (options, done) =>
      this.#channel.stub.acquireRefresh({ ...request, wait: null }, options, done);
    try {
      const { lease } = await call(make, performance.now() + CALL_THAT_WAITS_MS);
      if (lease) await this.#abandon(lease, "ABANDON_CAUSE_TRANSIENT");
    } catch {
      // It lapses.
    }
  }

  /** The holder's one call to Salesforce, and what becomes of it. */
  async #refresh(lease: RefreshLease__Output, began: number, deadline: number): Promise<void> {
    if (performance.now() - began > LEASE_S * 1_000 - HTTP_TIMEOUT_MS - RESERVE_MS) {
      return this.#abandon(lease, "ABANDON_CAUSE_TRANSIENT");
    }
    let brought;
    try {
      brought = await refresh(this.#app, oauth(lease.secret));
    } catch (error) {
      if (!(error instanceof SalesforceError)) throw error;
      if (error.tokenIsDead) {
        // The next AcquireRefresh says NEEDS_REAUTH, to this caller and to all others.
        return this.#abandon(lease, "ABANDON_CAUSE_INVALID_GRANT", error.description);
      }
      // Whoever used the token now might use it twice. The lease lapses.
      if (error.inDoubt) throw error;
      await this.#abandon(lease, "ABANDON_CAUSE_TRANSIENT");
      if (!error.mayPass) throw error;
      return sleep(backoffMs(3), deadline, error);
    }
    try {
      await this.#complete(lease, brought);
    } catch (error) {
      if (!(error instanceof TrisealError) || error.code !== grpc.status.INVALID_ARGUMENT) throw error;
      // Something beside the tokens can't be stored. Then what was known of it stays.
      await this.#complete(lease, { accessToken: brought.accessToken!, refreshToken: brought.refreshToken! });
    }
  }

  async #complete(lease: RefreshLease__Output, salesforceOauth: SalesforceOAuth): Promise<void> {
    const request = { ...placeOf(lease), leaseToken: lease.leaseToken, salesforceOauth };
    await settle((options, done) => this.#channel.stub.completeRefresh(request, options, done), isOpen);
  }

  async #revoke(lease: RefreshLease__Output): Promise<void> {
    try {
      await revoke(this.#app, oauth(lease.secret));
    } catch (error) {
      await this.#abandon(lease, "ABANDON_CAUSE_TRANSIENT");
      throw error;
    }
    const erase = { ...placeOf(lease), ifRevision: lease.credential!.revision };
    await settle((options, done) => this.#channel.stub.deleteCredential(erase, options, done));
  }

  async #abandon(lease: RefreshLease__Output, cause: AbandonCause, detail = ""): Promise<void> {
    const printable = detail.replace(/[^ -~]/g, "").slice(0, 200);
    const request = { ...placeOf(lease), leaseToken: lease.leaseToken, cause, detail: printable };
    await settle((options, done) => this.#channel.stub.abandonRefresh(request, options, done));
  }
}

// --- Single calls ---

/** Makes a call until it is known what became of it, whatever the caller's deadline is. */
async function settle<T>(make: Call<T>, again?: (error: TrisealError) => boolean): Promise<void> {
  try {
    await call(make, performance.now() + BRING_MS, CALL_MS, again);
  } catch (error) {
    // Somebody else has brought tokens since, or erased them.
    if (!(error instanceof TrisealError) || isOpen(error) || error.code === grpc.status.INVALID_ARGUMENT) throw error;
  }
}

/** Whether it is still open what becomes of a CompleteRefresh. A request that is not well-formed never will be. */
function isOpen({ code }: TrisealError): boolean {
  return ![grpc.status.ABORTED, grpc.status.NOT_FOUND, grpc.status.INVALID_ARGUMENT].includes(code);
}

/** Makes a call, again after what passes, until the deadline. Its request is the same each time, idempotency key and all. */
async function call<T>(
  make: Call<T>,
  deadline: number,
  timeoutMs = CALL_MS,
  again: (error: TrisealError) => boolean = () => false,
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    const within = Math.max(Math.min(timeoutMs, deadline - performance.now()), 100);
    try {
      return await new Promise<T>((resolve, reject) =>
        make({ deadline: Date.now() + within }, (error, answer) => (error ? reject(error) : resolve(answer!))),
      );
    } catch (error) {
      const failure = TrisealError.of(error as grpc.ServiceError);
      const delay = failure.delayMs(attempt) ?? (again(failure) ? backoffMs(attempt) : undefined);
      if (delay === undefined) throw failure;
      await sleep(delay, deadline, failure);
    }
  }
}

/** Unless there is no time for it: then the failure is what there is to say. */
async function sleep(delayMs: number, deadline: number, failure: unknown): Promise<void> {
  if (performance.now() + delayMs >= deadline) throw failure;
  await sleepFor(delayMs);
}

function hasReason(error: unknown, ...reasons: string[]): boolean {
  return error instanceof TrisealError && reasons.includes(error.reason);
}

function oauth(secret: Secret__Output | null): SalesforceOAuth__Output {
  return secret!.salesforceOauth!;
}

function placeOf(lease: RefreshLease__Output): Place {
  const { customerId, credentialId } = lease.credential!;
  return { customerId, credentialId };
}
