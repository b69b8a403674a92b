// The client against a real triseald and the Salesforce of tests/support. Run by clients/test.

import assert from "node:assert/strict";
import dns from "node:dns";
import { copyFileSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";

import { type Credential, NeedsReauth, SalesforceError, TrisealError, Unauthorized } from "../src/index.js";
import {
  client,
  consent,
  CUSTOMER,
  drainAndRestart,
  expire,
  faults,
  killAReplica,
  killAndRestart,
  limits,
  mute,
  seen,
  unmute,
  variable,
} from "./support.js";

const [sync, task] = [client("realsync"), client("realtask")];
after(() => Promise.all([sync.close(), task.close()]));

let number = 0;
const name = (): string => `shared.node-${++number}`;

/** A connection that is stored. */
async function stored(): Promise<string> {
  const crm = name();
  await sync.storeConnection(CUSTOMER, crm, await consent(crm));
  return crm;
}

async function hasSeen(crm: string, wanted: Record<string, number | boolean>): Promise<void> {
  const found = await seen(crm);
  assert.deepEqual(Object.fromEntries(Object.keys(wanted).map((key) => [key, found[key]])), wanted);
}

const refusedFor =
  (reason: string) =>
  (error: unknown): boolean =>
    error instanceof TrisealError && error.reason === reason;

test("a connection is stored once and read by another product", async () => {
  const crm = name();
  const answer = await consent(crm);
  for (let times = 0; times < 2; times++) {
    const options = { ifRevision: 0, idempotencyKey: `consent-${crm}` };
    const credential: Credential = await sync.storeConnection(CUSTOMER, crm, answer, options);
    assert.equal(credential.revision, "1");
    assert.equal(Number(credential.refreshTime!.seconds), Math.floor(Number(answer.issued_at) / 1_000));
  }
  const anew = sync.storeConnection(CUSTOMER, crm, await consent(crm), { ifRevision: 0 });
  await assert.rejects(anew, refusedFor("CREDENTIAL_EXISTS"));
  const given = await task.callWithToken(CUSTOMER, crm, async (...given) => given);
  assert.deepEqual(given, [answer.access_token, answer.instance_url]);
});

test("what policy refuses is said at once", async () => {
  await assert.rejects(task.callWithToken(CUSTOMER, "realsync.crm", limits), refusedFor("NOT_PERMITTED"));
});

test("a dead token is refreshed and the call made again", async () => {
  const crm = await stored();
  assert.equal((await sync.callWithToken(CUSTOMER, crm, limits)).connection, crm);
  for (const deaths of [1, 2]) {
    await expire(crm);
    assert.equal((await sync.callWithToken(CUSTOMER, crm, limits)).connection, crm);
    await hasSeen(crm, { deaths, refreshes: deaths, reuses: 0 });
  }
});

test("what somebody else has refreshed is taken", async () => {
  const crm = await stored();
  await expire(crm);
  const used: string[] = [];
  await sync.callWithToken(CUSTOMER, crm, async (token, url) => {
    if (used.push(token) === 1) await task.callWithToken(CUSTOMER, crm, limits);
    return limits(token, url);
  });
  assert.equal(new Set(used).size, 2);
  await hasSeen(crm, { deaths: 1, refreshes: 1 });
});

test("those who wait get what one brings, even from another service", async () => {
  const crm = await stored();
  await faults(crm, "slow");
  await expire(crm);
  const calls = Array.from({ length: 8 }, (_, index) => (index % 2 ? sync : task).callWithToken(CUSTOMER, crm, limits));
  await sleep(500);
  await drainAndRestart();
  for (const { connection } of await Promise.all(calls)) assert.equal(connection, crm);
  await hasSeen(crm, { deaths: 1, refreshes: 1, reuses: 0 });
});

test("a Salesforce that is away for a moment is asked again", async () => {
  const crm = await stored();
  await faults(crm, "unavailable", "odd");
  await expire(crm);
  await sync.callWithToken(CUSTOMER, crm, limits);
  await hasSeen(crm, { refreshes: 1, reuses: 0 });
});

test("tokens are kept though what is beside them is refused", async () => {
  const crm = await stored();
  await faults(crm, "unstorable");
  for (const refreshes of [1, 2]) {
    await expire(crm);
    await sync.callWithToken(CUSTOMER, crm, limits);
    await hasSeen(crm, { refreshes, reuses: 0 });
  }
});

test("a refusal that is not the token's fault ends no connection", async () => {
  const crm = await stored();
  await expire(crm);
  await faults(crm, "restricted");
  const says = { name: "SalesforceError", description: "ip restricted" };
  await assert.rejects(sync.callWithToken(CUSTOMER, crm, limits), says);
  const unknown = client("realsync", { app: { clientId: "test" } });
  await assert.rejects(unknown.callWithToken(CUSTOMER, crm, limits), { error: "invalid_client" });
  await unknown.close();
  await task.callWithToken(CUSTOMER, crm, limits);
  await hasSeen(crm, { refreshes: 1, reuses: 0 });
});

test("a Salesforce that is not there keeps nobody waiting", async () => {
  const crm = name();
  // Nobody listens there.
  const tokenUrl = "http://127.0.0.1:2/services/oauth2/token";
  await sync.storeConnection(CUSTOMER, crm, await consent(crm), { tokenUrl });
  await expire(crm);
  for (const who of [sync, task]) {
    await assert.rejects(who.callWithToken(CUSTOMER, crm, limits, { timeoutMs: 3_000 }), SalesforceError);
  }
});

test("what is in doubt lets the lease lapse", async () => {
  const [unread, lost] = [await stored(), await stored()];
  const found: Record<string, string> = { lost_before: unread, lost_after: lost };
  for (const fault of ["lost_before", "lost_after", "cut", "stalled", "bad_gateway", "busy"]) {
    const crm = found[fault] ?? (await stored());
    await faults(crm, fault);
    await expire(crm);
    await assert.rejects(sync.callWithToken(CUSTOMER, crm, limits), SalesforceError);
    const others = task.callWithToken(CUSTOMER, crm, limits, { timeoutMs: 2_000 });
    await assert.rejects(others, refusedFor("REFRESH_IN_PROGRESS"));
  }
  // 60 s of lease and 65 s more. What Salesforce had not read is refreshed then.
  await task.callWithToken(CUSTOMER, unread, limits, { timeoutMs: 180_000 });
  await hasSeen(unread, { refreshes: 1, reuses: 0 });
  // What it had is found out once, and the customer consents again.
  for (const who of [task, sync]) await assert.rejects(who.callWithToken(CUSTOMER, lost, limits), NeedsReauth);
  await hasSeen(lost, { refreshes: 1, reuses: 1, revoked: true });
  await sync.storeConnection(CUSTOMER, lost, await consent(lost));
  await task.callWithToken(CUSTOMER, lost, limits);
});

test("a lease of which nobody knows is given back", async () => {
  const crm = await stored();
  const far = client("realsync", { endpoint: variable("TRISEAL_LINE") });
  const dies = async (): Promise<void> => {
    await expire(crm);
    await mute();
    throw new Unauthorized();
  };
  await assert.rejects(far.callWithToken(CUSTOMER, crm, dies, { timeoutMs: 1_000 }), TrisealError);
  await unmute();
  await task.callWithToken(CUSTOMER, crm, limits);
  await hasSeen(crm, { refreshes: 1, reuses: 0 });
  await far.close();
});

test("closing waits for a refresh that is under way", async () => {
  const crm = await stored();
  const closing = client("realsync");
  await faults(crm, "slow");
  await expire(crm);
  const called = closing.callWithToken(CUSTOMER, crm, limits).catch(() => undefined);
  await sleep(700);
  await closing.close();
  await called;
  await task.callWithToken(CUSTOMER, crm, limits);
  await hasSeen(crm, { deaths: 1, refreshes: 1, reuses: 0 });
});

test("all replicas are used and one that dies is not missed", async ({ mock }) => {
  // grpc-js asks the system, and no name server of one's choice.
  const addresses = ["127.0.0.1", "127.0.0.2"].map((address) => ({ address, family: 4 }));
  mock.method(dns.promises, "lookup", async () => addresses);
  const crm = name();
  const answer = await consent(crm);
  const both = client("realsync", { endpoint: variable("REPLICAS") });
  // They share no store: each takes it once.
  const end = performance.now() + 30_000;
  for (let taken = 0; taken < 2;) {
    try {
      await both.storeConnection(CUSTOMER, crm, answer, { ifRevision: 0 });
      taken++;
    } catch (error) {
      assert.ok(refusedFor("CREDENTIAL_EXISTS")(error) && performance.now() < end, String(error));
    }
  }
  await killAReplica();
  for (let times = 0; times < 20; times++) {
    assert.equal((await both.callWithToken(CUSTOMER, crm, limits)).connection, crm);
  }
  await both.close();
});

test("a service that is killed while Salesforce answers loses no tokens", async () => {
  const crm = await stored();
  await faults(crm, "slow");
  await expire(crm);
  await Promise.all([sync.callWithToken(CUSTOMER, crm, limits), sleep(500).then(killAndRestart)]);
  await killAndRestart();
  await sync.callWithToken(CUSTOMER, crm, limits);
  await hasSeen(crm, { deaths: 1, refreshes: 1, reuses: 0 });
});

test("a 401 that is no token's fault ends", async () => {
  const crm = await stored();
  const refused = sync.callWithToken(CUSTOMER, crm, async () => {
    throw new Unauthorized();
  });
  await assert.rejects(refused, Unauthorized);
  await hasSeen(crm, { refreshes: 2, reuses: 0 });
});

test("disconnecting revokes and erases", async () => {
  const crm = await stored();
  assert.equal(await sync.disconnect(CUSTOMER, crm), true);
  await hasSeen(crm, { revoked: true });
  await assert.rejects(task.callWithToken(CUSTOMER, crm, limits), refusedFor("CREDENTIAL_NOT_FOUND"));
  assert.equal(await sync.disconnect(CUSTOMER, crm), false, "nothing was left to revoke");
});

test("what is revoked is erased, however long it takes", async () => {
  const crm = await stored();
  await faults(crm, "revoke_slow");
  const far = client("realsync", { endpoint: variable("TRISEAL_LINE") });
  await far.callWithToken(CUSTOMER, crm, limits);
  const timers = [sleep(700).then(mute), sleep(3_000).then(unmute)];
  assert.equal(await far.disconnect(CUSTOMER, crm, { timeoutMs: 1_000 }), true);
  await Promise.all([...timers, far.close()]);
  assert.equal(await sync.disconnect(CUSTOMER, crm), false, "nothing was left");
});

test("what is not revoked is left as it was", async () => {
  const crm = await stored();
  await faults(crm, "revoke_unavailable");
  await assert.rejects(sync.disconnect(CUSTOMER, crm), SalesforceError);
  await expire(crm);
  await task.callWithToken(CUSTOMER, crm, limits);
  await hasSeen(crm, { refreshes: 1, revoked: false });
});

test("a certificate that is exchanged is taken", async () => {
  const folder = mkdtempSync(`${tmpdir()}/triseal-`);
  const exchange = (caller: string): void => {
    for (const kind of ["pem", "key"]) {
      copyFileSync(`${variable("TRISEAL_CERTIFICATES")}/${caller}.${kind}`, `${folder}/new`);
      renameSync(`${folder}/new`, `${folder}/own.${kind}`);
    }
  };
  exchange("realsync");
  const changing = client("realsync", { certificate: `${folder}/own.pem`, key: `${folder}/own.key` });
  await changing.storeConnection(CUSTOMER, "realsync.node", await consent("realsync.node"));
  await changing.callWithToken(CUSTOMER, "realsync.node", limits);
  exchange("realtask");
  const refused = async (): Promise<void> => {
    for (let times = 0; times < 60; times++) {
      await sleep(500);
      await changing.callWithToken(CUSTOMER, "realsync.node", limits);
    }
  };
  await assert.rejects(refused, refusedFor("NOT_PERMITTED"), "it is another caller now");
  await changing.close();
  rmSync(folder, { recursive: true });
});

test("nothing prints a secret", async () => {
  const crm = await stored();
  const answer = await consent(crm);
  await sync.storeConnection(CUSTOMER, crm, answer);
  await faults(crm, "lost_after");
  await expire(crm);
  const error = await sync.callWithToken(CUSTOMER, crm, limits).catch((error: unknown) => error);
  assert.ok(error instanceof SalesforceError);
  for (const text of [
    inspect(error, { depth: 20, showHidden: true }),
    inspect(sync, { depth: 20, showHidden: true }),
  ]) {
    for (const secret of [answer.access_token, answer.refresh_token, "app-secret"]) assert.ok(!text.includes(secret));
  }
});
