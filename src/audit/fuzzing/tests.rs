use super::*;
use crate::audit::fakes::Made;
use crate::fuzzing::tests::expect_seed;

fn seed(name: &str, octets: &str) {
    audit(octets.as_bytes());
    expect_seed("audit", name, octets.as_bytes());
}

#[test]
fn seeds_of_logs_are_verified() {
    let (mut one, other) = (Made::closed('a', 4), Made::closed('b', 3));
    let heads = format!("{}\n{}\n\0", one.head(true).to_json(), other.head(true).to_json());
    let log = format!("{}{}", one.log(), other.log());
    let clean = verified(Some(Vec::new()), log.as_bytes(), false).unwrap();
    assert_eq!(clean.entries, 7);
    seed("two-streams-with-heads", &format!("{heads}{log}"));
    seed("without-heads", &one.log());
    seed("cut-off", &format!("{heads}{}", one.log()));
    one.lines.swap(1, 2);
    seed("reordered", &format!("{heads}{}", one.log()));
    seed("torn", &one.log()[..500]);
    seed("no-log", "{\"level\":\"info\"}\n\n");
}
