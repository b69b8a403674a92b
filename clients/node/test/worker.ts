// One of the four languages of `clients/test mixed`: workers of three products on shared connections. Prints what came
// of it.

import { setTimeout as sleep } from "node:timers/promises";

import { client, CUSTOMER, limits, variable } from "./support.js";

const end = performance.now() + Number(variable("SECONDS")) * 1_000;
const outcome = { calls: 0, failures: [] as string[] };
const clients = variable("CALLERS")
  .split(" ")
  .map((caller) => client(caller));

async function work(made: (typeof clients)[number]): Promise<void> {
  while (performance.now() < end) {
    const name = `shared.connection-${Math.floor(Math.random() * Number(variable("CONNECTIONS")))}`;
    try {
      await made.callWithToken(CUSTOMER, name, limits);
      outcome.calls++;
    } catch (error) {
      outcome.failures.push(String(error));
    }
    await sleep(Math.random() * 200);
  }
}

const each = Array.from({ length: Number(variable("WORKERS")) });
await Promise.all(clients.flatMap((made) => each.map(() => work(made))));
await Promise.all(clients.map((made) => made.close()));
console.log(JSON.stringify(outcome));
