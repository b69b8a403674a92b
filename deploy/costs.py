#!/usr/bin/env python3
"""What a deployment costs on AWS each month, at some rates of requests. Run it to see the table of README.md again.

Prices are AWS's list prices for us-east-1 without discounts or free tier, as of the date below. Change them here.
"""

PRICES_AS_OF = "2026-11-25"

SECONDS = 730 * 3600  # of an average month, as AWS counts
READS = 0.90  # of all requests: DecryptCredential; the rest are EncryptCredential
ACTIVE_CUSTOMERS = {1: 100, 100: 1_000, 10_000: 10_000}
# One vCPU serves about 10,000 warm reads a second with TLS, policy and audit (docs/BENCHMARKS.md); replicas run at a quarter of that.
REQUESTS_PER_VCPU = 2_500
AUDIT_OCTETS = 520  # of one entry; a change writes two
ITEM_WRITE_UNITS = 2  # a row of 1 to 2 KB
ENTRIES_PER_HEAD, HEADS_PER_HOUR = 1_000, 360  # of the audit log: whichever comes first, every 1,000 entries or 10 s
ASKED_PER_HOUR = 720 + 120  # of the store by each replica: whether it answers, and one environment version's fingerprint
REFRESHES_PER_HOUR = 4  # of a root that is in use: refresh_after is 15 minutes

KMS_KEY, KMS_CALL = 1.00, 0.03 / 10_000
SECRET, SECRET_CALL = 0.40, 0.05 / 10_000
READ_UNIT, WRITE_UNIT = 0.125 / 1e6, 0.625 / 1e6
STORED_GB, BACKUP_GB = 0.25, 0.20
VCPU_HOUR, GB_HOUR = 0.04048, 0.004445
BALANCER_HOUR, BALANCER_UNIT_HOUR = 0.0225, 0.006
LOGS_INGESTED_GB, LOGS_STORED_GB = 0.50, 0.03


def costs(rate):
    replicas = max(2, -(-rate // (REQUESTS_PER_VCPU * 2)))
    vcpus = 1 if rate <= REQUESTS_PER_VCPU else 2
    reads, writes = rate * SECONDS * READS, rate * SECONDS * (1 - READS)
    customers = ACTIVE_CUSTOMERS[rate]
    # A customer is in use on every replica at these rates, but for the lowest.
    unwraps = min(customers * REFRESHES_PER_HOUR * 730 * replicas, rate * SECONDS)
    # A read reads its row; a write reads and replaces it; each replica reads each active customer's state every 10 s at most.
    states = min(customers * replicas * SECONDS / 10, rate * SECONDS)
    entries = reads + 2 * writes
    # Each is read, written and signed.
    heads = min(max(replicas * 730 * HEADS_PER_HOUR, entries / ENTRIES_PER_HEAD), entries)
    own_reads = replicas * 730 * ASKED_PER_HOUR + heads
    log_gb = entries * AUDIT_OCTETS / 1e9
    rows_gb = customers * 10 * 1.5e3 / 1e9
    traffic_gb_hour = rate * 3600 * 2_000 / 1e9
    return {
        "Fargate": replicas * 730 * (vcpus * VCPU_HOUR + 2 * vcpus * GB_HOUR),
        "load balancer": 730 * (BALANCER_HOUR + max(traffic_gb_hour, 0.01) * BALANCER_UNIT_HOUR),
        "DynamoDB reads": (reads + writes + states + own_reads) * READ_UNIT,
        "DynamoDB writes": (writes * ITEM_WRITE_UNITS + heads) * WRITE_UNIT,
        "DynamoDB storage": rows_gb * (STORED_GB + BACKUP_GB),
        "KMS": 3 * KMS_KEY + (unwraps + heads) * KMS_CALL,
        "Secrets Manager": SECRET + replicas * 730 * 120 * SECRET_CALL,
        "audit log in CloudWatch": log_gb * (LOGS_INGESTED_GB + LOGS_STORED_GB),
    }


def main():
    columns = {rate: costs(rate) for rate in (1, 100, 10_000)}
    print(f"| USD a month, us-east-1, {PRICES_AS_OF} | " + " | ".join(f"{rate:,}/s" for rate in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name in columns[1]:
        print(f"| {name} | " + " | ".join(f"{column[name]:,.2f}" for column in columns.values()) + " |")
    print("| **all** | " + " | ".join(f"**{sum(column.values()):,.0f}**" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
