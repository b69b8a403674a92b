//! What the envelope costs above its own arithmetic: sealing and opening 400 octets under a cached root, beside the
//! bare cipher, hash and derivation that they cannot do without. `cargo bench --bench envelope`.
//!
//! Everything is measured in one run, a slice of each in turn, so that a busy machine disturbs all alike; a line is the
//! median of its slices. The ratio is what to look at: nanoseconds belong to one machine, and nothing is asserted on
//! them. The parts wipe their state as the envelope does, since their crates have the same features.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;
use std::time::Instant;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use triseal::crypto::{Context, Key, Lineage, Plaintext, Salt, Version, combine, open, seal};
use zeroize::Zeroizing;

const ROUNDS: usize = 401;
const CALLS_A_ROUND: u32 = 500;
/// Seal and open may cost so many times the sum of their parts.
const GOAL: f64 = 1.5;

fn main() {
    let root = combine(&key(1), &key(2), key(3));
    let lineage = Lineage { codebase: Version::FIRST, environment: Version::FIRST, customer: Version::FIRST };
    // With label and header, the binding hashes 200 octets.
    let (customer, credential) = ("c".repeat(36), "s".repeat(59));
    let context = Context::new("production", &customer, &credential, "salesforce_oauth", 1).unwrap();
    let plaintext = Plaintext::new(Zeroizing::new(vec![7; 400])).unwrap();
    let seal_with = |salt| seal(&root, lineage, &context, Salt::new(salt), &plaintext).unwrap();
    let envelope = seal_with([9; 32]);

    let (mut octets, text, mut okm, mut random) = ([7; 448], [7; 200], [0; 76], [0; 32]);
    let mut lines: [(&str, &mut dyn FnMut()); 7] = [
        ("AES-256-GCM of 448 octets, fresh key", &mut || bare_cipher(black_box(&[1; 32]), black_box(&mut octets))),
        ("SHA-256 of 200 octets", &mut || {
            black_box(Sha256::digest(black_box(&text)));
        }),
        ("HKDF-Expand to 76 octets", &mut || bare_expansion(black_box(&[1; 32]), black_box(&mut okm))),
        ("seal", &mut || drop(black_box(seal_with(black_box([9; 32]))))),
        ("open", &mut || drop(black_box(open(&root, &context, black_box(&envelope)).unwrap()))),
        ("32 octets of the OS generator", &mut || getrandom::fill(black_box(&mut random)).unwrap()),
        ("seal with a salt from the OS", &mut || {
            let mut salt = [0; 32];
            getrandom::fill(&mut salt).unwrap();
            drop(black_box(seal_with(salt)));
        }),
    ];
    let names = lines.each_ref().map(|(name, _)| *name);
    let medians = medians(lines.each_mut().map(|(_, call)| &mut **call));

    println!("{}, {ROUNDS} rounds of {CALLS_A_ROUND} calls", cpu());
    let sum = medians[0] + medians[1] + medians[2];
    for line in 0..3 {
        println!("  {:<38} {:>7.0} ns", names[line], medians[line]);
    }
    println!("  {:<38} {sum:>7.0} ns   1.00", "sum of the parts");
    for line in 3..5 {
        let ratio = medians[line] / sum;
        let verdict = if ratio <= GOAL { "within" } else { "ABOVE" };
        println!("  {:<38} {:>7.0} ns   {ratio:.2}   {verdict} the goal of {GOAL}", names[line], medians[line]);
    }
    for line in 5..7 {
        println!("  {:<38} {:>7.0} ns", names[line], medians[line]);
    }
    let sealing = allocation_counter::measure(|| drop(seal_with([9; 32]))).count_total;
    let opening = allocation_counter::measure(|| drop(open(&root, &context, &envelope))).count_total;
    println!("  allocations: seal {sealing}, open {opening}");
}

fn key<F>(octet: u8) -> Key<F> {
    Key::new(Zeroizing::new([octet; 32]))
}

fn bare_cipher(key: &[u8; 32], octets: &mut [u8]) {
    let cipher = Aes256Gcm::new(key.into());
    black_box(cipher.encrypt_inout_detached(&[0; 12].into(), &[0; 32], octets.into()).unwrap());
}

fn bare_expansion(prk: &[u8; 32], okm: &mut [u8]) {
    Hkdf::<Sha256>::from_prk(prk).unwrap().expand(&[0; 49], okm).unwrap();
}

/// Nanoseconds a call, the median of interleaved rounds.
fn medians<const N: usize>(mut calls: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..CALLS_A_ROUND {
                call();
            }
            times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS_A_ROUND));
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    })
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned())
}
