// What the tests and the worker of clients/test share: clients by the environment that it gives, and what is asked of
// its Salesforce.

import { Client, type ClientOptions, Unauthorized, type TokenAnswer } from "../src/index.js";

export const CUSTOMER = "demo";

export function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: run clients/test`);
  return value;
}

/** As a product makes one. */
export function client(caller: string, options: Partial<ClientOptions> = {}): Client {
  const folder = variable("TRISEAL_CERTIFICATES");
  const replicas = variable("TRISEAL_ENDPOINT").split(" ");
  return new Client({
    endpoint: replicas[Math.floor(Math.random() * replicas.length)]!,
    app: { clientId: "test", clientSecret: "app-secret" },
    ca: `${folder}/ca.pem`,
    certificate: `${folder}/${caller}.pem`,
    key: `${folder}/${caller}.key`,
    ...options,
  });
}

/** A call to Salesforce's API, as a product makes it. */
export async function limits(accessToken: string, instanceUrl: string): Promise<{ connection: string }> {
  const headers = { authorization: `Bearer ${accessToken}` };
  const answer = await fetch(`${instanceUrl}/services/data/v62.0/limits`, { headers });
  const body = (await answer.json()) as { connection: string };
  if (answer.status === 401) throw new Unauthorized();
  if (!answer.ok) throw new Error(`Salesforce answered ${answer.status}`);
  return body;
}

async function ask<T>(url: string, body?: unknown): Promise<T> {
  const answer = await fetch(url, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return JSON.parse((await answer.text()) || "{}") as T;
}

const salesforce = <T>(path: string, body?: unknown): Promise<T> => ask<T>(variable("SALESFORCE_URL") + path, body);

export const consent = (id: string): Promise<Required<TokenAnswer>> => salesforce("/admin/connections", { id });

export const expire = (id: string): Promise<unknown> => salesforce("/admin/expire", { id });

export const faults = (connection: string, ...kinds: string[]): Promise<unknown> =>
  salesforce("/admin/faults", {
    connection,
    faults: kinds.map((kind) => ({ kind, seconds: { slow: 1.5, revoke_slow: 1.5, stalled: 15 }[kind] ?? 0 })),
  });

export async function seen(connection: string): Promise<Record<string, number | boolean>> {
  const report = await salesforce<{ connections: Record<string, Record<string, number | boolean>> }>("/admin/report");
  return report.connections[connection]!;
}

export const killAndRestart = (): Promise<unknown> => ask(`${variable("CONTROL_URL")}/kill`, {});

export const drainAndRestart = (): Promise<unknown> => ask(`${variable("CONTROL_URL")}/drain`, {});

/** What comes by TRISEAL_LINE is done from now on, and not answered. */
export const mute = (): Promise<unknown> => ask(`${variable("CONTROL_URL")}/mute`, {});

export const unmute = (): Promise<unknown> => ask(`${variable("CONTROL_URL")}/unmute`, {});

export const killAReplica = (): Promise<unknown> => ask(`${variable("CONTROL_URL")}/kill-a-replica`, {});
