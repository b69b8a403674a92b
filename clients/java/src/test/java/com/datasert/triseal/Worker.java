package com.datasert.triseal;

import static com.datasert.triseal.Surroundings.variable;

import com.google.gson.Gson;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicInteger;

/** One of the four languages of {@code clients/test mixed}: workers of three products on shared connections. Prints what came of it. */
final class Worker {
  private static final AtomicInteger CALLS = new AtomicInteger();
  private static final Queue<String> FAILURES = new ConcurrentLinkedQueue<>();

  private Worker() {}

  public static void main(String[] arguments) throws InterruptedException {
    long end = System.nanoTime() + (long) (Double.parseDouble(variable("SECONDS")) * 1e9);
    List<TrisealClient> clients = Arrays.stream(variable("CALLERS").split(" ")).map(Surroundings::client).toList();
    List<Thread> workers = new ArrayList<>();
    for (TrisealClient client : clients) {
      for (int number = 0; number < Integer.parseInt(variable("WORKERS")); number++) {
        workers.add(new Thread(() -> work(client, end)));
      }
    }
    workers.forEach(Thread::start);
    for (Thread worker : workers) {
      worker.join();
    }
    clients.forEach(TrisealClient::close);
    System.out.println(new Gson().toJson(Map.of("calls", CALLS.get(), "failures", List.copyOf(FAILURES))));
  }

  private static void work(TrisealClient client, long end) {
    int connections = Integer.parseInt(variable("CONNECTIONS"));
    while (System.nanoTime() < end) {
      String name = "shared.connection-" + ThreadLocalRandom.current().nextInt(connections);
      try {
        client.callWithToken(Surroundings.CUSTOMER, name, Surroundings::limits);
        CALLS.incrementAndGet();
        Thread.sleep(ThreadLocalRandom.current().nextInt(200));
      } catch (RuntimeException | InterruptedException error) {
        FAILURES.add(error.toString());
      }
    }
  }
}
