// What is said to Salesforce's token endpoint, and how its answers are read. It knows nothing of triseal's protocol.

import { SalesforceError } from "./errors.js";
import type { SalesforceOAuth, SalesforceOAuth__Output } from "./generated/triseal/v1/SalesforceOAuth.js";

/** Of one call to the token endpoint, its answer included. */
export const HTTP_TIMEOUT_MS = 10_000;

/** The app in Salesforce that customers consent to. */
export interface ConnectedApp {
  clientId: string;
  /** Absent if the app does not require one. */
  clientSecret?: string;
}

/** The JSON that Salesforce's token endpoint answers. */
export interface TokenAnswer {
  access_token: string;
  refresh_token?: string;
  instance_url?: string;
  id?: string;
  scope?: string;
  issued_at?: string;
}

/** Asks for new tokens, once: each refresh token is good for one use, so nothing here may try again. */
export async function refresh(app: ConnectedApp, connection: SalesforceOAuth__Output): Promise<SalesforceOAuth> {
  const form = { grant_type: "refresh_token", refresh_token: connection.refreshToken };
  const answer = await post(app, connection.tokenUrl, form);
  if (word(answer.access_token) === "") throw new SalesforceError(200, "no access_token");
  return tokens(answer);
}

/** Revokes the refresh token, and with it the connection. */
export async function revoke(app: ConnectedApp, connection: SalesforceOAuth__Output): Promise<void> {
  try {
    await post(app, connection.tokenUrl.replace(/\/token$/, "/revoke"), { token: connection.refreshToken });
  } catch (error) {
    // 400: it is dead already.
    if (!(error instanceof SalesforceError) || error.status !== 400) throw error;
  }
}

async function post(app: ConnectedApp, url: string, fields: Record<string, string>): Promise<Record<string, unknown>> {
  const body = new URLSearchParams({ ...fields, client_id: app.clientId });
  if (app.clientSecret !== undefined) body.set("client_secret", app.clientSecret);
  let status: number, text: string;
  try {
    // A token goes where it was to go, and nowhere else. fetch sends no POST twice.
    const answer = await fetch(url, {
      method: "POST",
      body,
      redirect: "manual",
      signal: AbortSignal.timeout(HTTP_TIMEOUT_MS),
    });
    [status, text] = [answer.status, await answer.text()];
  } catch (error) {
    throw new SalesforceError(undefined, "", "", isUnsent(error));
  }
  const said = parsed(text);
  if (status !== 200) throw new SalesforceError(status, word(said?.error), word(said?.error_description));
  if (said === undefined) throw new SalesforceError(status, "no JSON object");
  return said;
}

/** They say that there was no connection, so that nothing was sent. */
const NO_CONNECTION = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"]);

function isUnsent(error: unknown): boolean {
  const { cause } = error as { cause?: { code?: unknown } };
  return NO_CONNECTION.has(String(cause?.code));
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    const found: unknown = JSON.parse(text === "" ? "{}" : text);
    return typeof found === "object" && found !== null ? (found as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

const word = (value: unknown): string => (typeof value === "string" ? value : "");

/**
 * An answer, as it is to be stored. What it does not say stays empty. Nothing but its access token is required: tokens
 * must not be lost because something beside them is odd.
 */
export function tokens(answer: { [name in keyof TokenAnswer]?: unknown }, tokenUrl = ""): SalesforceOAuth {
  // Until the year 5138: a Timestamp ends with 9999.
  const issued = /^\d{1,14}$/.test(String(answer.issued_at)) ? Number(answer.issued_at) : 0;
  return {
    accessToken: word(answer.access_token),
    refreshToken: word(answer.refresh_token),
    instanceUrl: word(answer.instance_url),
    tokenUrl,
    identityUrl: word(answer.id),
    scopes: word(answer.scope).split(" ").filter(Boolean),
    issueTime: issued ? { seconds: Math.floor(issued / 1_000), nanos: (issued % 1_000) * 1_000_000 } : null,
  };
}

/** `https://HOST/id/…` → `https://HOST/services/oauth2/token`: production and sandboxes differ in the host. */
export function tokenUrlOf(answer: TokenAnswer): string {
  if (!answer.id) throw new TypeError("Salesforce's answer has no id: say its token URL");
  return new URL("/services/oauth2/token", answer.id).href;
}
