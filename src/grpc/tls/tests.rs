use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use super::certificates::{Authority, Pair, good_between};
use super::*;

const CALLER: &str = "spiffe://datasert.com/realtask";
const HOUR: i64 = 3600;

/// The four files, in a directory.
struct Disk {
    folder: TempDir,
    authority: Authority,
    files: Files,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("clients");
        let path = |name: &str| folder.path().join(name);
        let files = Files {
            certificate: path("server.pem"),
            private_key: path("server.key"),
            client_ca: path("clients.pem"),
            client_crl: None,
        };
        let disk = Self { files, authority, folder };
        disk.write_server(&disk.authority.server());
        write(&disk.files.client_ca, &disk.authority.pem());
        disk
    }

    fn with_list(list: impl FnOnce(&Authority) -> String) -> Self {
        let mut disk = Self::new();
        let path = disk.folder.path().join("clients.crl");
        write(&path, &list(&disk.authority));
        disk.files.client_crl = Some(path);
        disk
    }

    fn write_server(&self, pair: &Pair) {
        write(&self.files.certificate, &pair.certificate);
        write(&self.files.private_key, &pair.key);
    }

    fn source(&self) -> Result<Source, TlsError> {
        Source::new(provider(), self.files.read(), Timestamp::now())
    }

    #[track_caller]
    fn refuses(&self, parts: &[&str]) {
        let Err(error) = self.source() else { panic!("taken") };
        let told = error.to_string();
        for part in parts {
            assert!(told.contains(part), "{part:?} is not in {told:?}");
        }
        assert!(!told.contains("BEGIN") && !told.contains('\n'), "{told}");
    }
}

fn write(path: &Path, content: &str) {
    // A new file in place of the old one, as an operator's tool does it.
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, path).unwrap();
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What the source's terms say of a client, as at a handshake.
fn judged(source: &Source, client: &Pair) -> Result<(), Refusal> {
    let terms = source.terms().unwrap();
    let chain = pem::parse_certificates(Path::new("client"), client.certificate.as_bytes()).unwrap();
    let (leaf, rest) = chain.split_first().unwrap();
    let verified = terms.clients.verify_client_cert(leaf, rest, UnixTime::now());
    verified.map(drop).map_err(|error| Refusal::of(&error))
}

#[test]
fn good_files_are_taken_and_say_who_may_connect() {
    let disk = Disk::new();
    let source = disk.source().unwrap();
    assert_eq!(judged(&source, &disk.authority.client(CALLER)), Ok(()));
    assert_eq!(judged(&source, &Authority::new("clients").client(CALLER)), Err(Refusal::UnknownCa));
    let dated = |from, until| disk.authority.client_with(vec![], |params| good_between(params, from, until));
    assert_eq!(judged(&source, &dated(-2 * HOUR, -10)), Err(Refusal::Expired));
    assert_eq!(judged(&source, &dated(HOUR, 2 * HOUR)), Err(Refusal::NotValidYet));
    assert_eq!(judged(&source, &disk.authority.server()), Err(Refusal::NotForClients));
}

#[test]
fn handshakes_are_tls_1_3_with_hybrid_key_exchange_first_and_without_resumption() {
    let terms = Disk::new().source().unwrap().terms().unwrap();
    assert_eq!(terms.config.alpn_protocols, [b"h2"]);
    assert_eq!((terms.config.send_tls13_tickets, terms.config.max_tls13_tickets), (0, 0));
    assert_eq!(terms.config.max_early_data_size, 0);
    assert!(!terms.config.session_storage.can_cache() && !terms.config.ticketer.enabled());
    assert!(terms.clients.client_auth_mandatory());
    let groups = &terms.config.crypto_provider().kx_groups;
    assert_eq!(groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn with_revocation_lists_a_certificate_has_to_be_known_to_be_good() {
    let disk = Disk::with_list(|authority| authority.revocation_list(&[], HOUR));
    let (good, stolen) = (disk.authority.client(CALLER), disk.authority.client(CALLER));
    let mut source = disk.source().unwrap();
    assert_eq!(judged(&source, &stolen), Ok(()));
    let list = disk.files.client_crl.as_ref().unwrap();
    write(list, &disk.authority.revocation_list(&[&stolen], HOUR));
    assert!(!source.follow(disk.files.read(), Timestamp::now()) && source.follow(disk.files.read(), Timestamp::now()));
    assert_eq!(judged(&source, &stolen), Err(Refusal::Revoked));
    assert_eq!(judged(&source, &good), Ok(()));
    // An expired list tells nothing about anybody.
    write(list, &disk.authority.revocation_list(&[&stolen], -10));
    assert_eq!(judged(&disk.source().unwrap(), &good), Err(Refusal::RevocationUnknown));
}

#[test]
fn the_lists_reach_through_a_chain() {
    let disk = Disk::with_list(|authority| authority.revocation_list(&[], HOUR));
    let middle = disk.authority.intermediate("products");
    let mut client = middle.client(CALLER);
    client.certificate += &middle.pem();
    // Nobody knows what the intermediate CA has revoked.
    assert_eq!(judged(&disk.source().unwrap(), &client), Err(Refusal::RevocationUnknown));
    let list = disk.files.client_crl.as_ref().unwrap();
    write(list, &(disk.authority.revocation_list(&[], HOUR) + &middle.revocation_list(&[], HOUR)));
    assert_eq!(judged(&disk.source().unwrap(), &client), Ok(()));
    write(list, &(disk.authority.revocation_list(&[], HOUR) + &middle.revocation_list(&[&client], HOUR)));
    assert_eq!(judged(&disk.source().unwrap(), &client), Err(Refusal::Revoked));
    // Where there are no lists at all, none is asked for.
    let mut without = Disk::new();
    write(&without.files.client_ca, &disk.authority.pem());
    without.files.client_crl = None;
    assert_eq!(judged(&without.source().unwrap(), &client), Ok(()));
}

#[test]
fn each_wrong_file_is_named_with_what_is_wrong() {
    let disk = Disk::new();
    fs::remove_file(&disk.files.private_key).unwrap();
    disk.refuses(&["server.key", "is not there"]);
    for (mode, refused) in
        [(0o600, false), (0o400, false), (0o640, false), (0o440, false), (0o644, true), (0o660, true), (0o604, true)]
    {
        let disk = Disk::new();
        fs::set_permissions(&disk.files.private_key, fs::Permissions::from_mode(mode)).unwrap();
        match refused {
            true => disk.refuses(&["server.key", &format!("{mode:04o}"), "chmod 600"]),
            false => drop(disk.source().unwrap()),
        }
    }
    type Case = (fn(&Disk), &'static [&'static str]);
    let cases: [Case; 13] = [
        (|disk| write(&disk.files.certificate, ""), &["server.pem", "no certificate"]),
        (|disk| write(&disk.files.certificate, &disk.authority.server().certificate[..300]), &["server.pem", "within"]),
        (|disk| write(&disk.files.certificate, &"x".repeat((1 << 20) + 1)), &["server.pem", "too long"]),
        (|disk| write(&disk.files.certificate, &disk.authority.server().key), &["server.pem", "private key"]),
        (
            |disk| write(&disk.files.certificate, &disk.authority.server().certificate),
            &["server.key", "not the key of"],
        ),
        (
            |disk| write(&disk.files.private_key, &disk.authority.server().certificate),
            &["server.key", "no private key"],
        ),
        (
            |disk| write(&disk.files.private_key, &disk.authority.server().key.repeat(2)),
            &["server.key", "more than one private key"],
        ),
        (
            |disk| write(&disk.files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            &["server.pem", "certificate 1 can't be read"],
        ),
        (
            |disk| disk.write_server(&disk.authority.issue(|params| good_between(params, -HOUR, -1))),
            &["server.pem", "and not now"],
        ),
        (
            |disk| disk.write_server(&disk.authority.issue(|params| good_between(params, HOUR, 2 * HOUR))),
            &["server.pem", "and not now"],
        ),
        (|disk| disk.write_server(&disk.authority.client(CALLER)), &["server.pem", "not for servers"]),
        (
            |disk| write(&disk.files.client_ca, &(disk.authority.pem() + &disk.authority.client(CALLER).certificate)),
            &["clients.pem", "certificate 2 is no CA's"],
        ),
        (
            |disk| {
                let signs_lists = disk.authority.issue(|params| {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                    params.key_usages = vec![KeyUsagePurpose::CrlSign];
                });
                write(&disk.files.client_ca, &signs_lists.certificate);
            },
            &["clients.pem", "certificate 1 is no CA's"],
        ),
    ];
    for (spoil, parts) in cases {
        let disk = Disk::new();
        disk.source().unwrap();
        spoil(&disk);
        disk.refuses(parts);
    }
}

#[test]
fn each_authority_needs_one_list_that_it_signed() {
    let good = |authority: &Authority| authority.revocation_list(&[], HOUR);
    Disk::with_list(good).source().unwrap();
    Disk::with_list(|_| String::new()).refuses(&["clients.crl", "no revocation list in PEM"]);
    Disk::with_list(|authority| good(authority) + &good(authority)).refuses(&["clients.crl", "1 and 2", "same issuer"]);
    Disk::with_list(|_| good(&Authority::new("another"))).refuses(&["clients.crl", "certificate 1 of", "clients.pem"]);
    // Of the same name, and signed by another key.
    Disk::with_list(|_| good(&Authority::new("clients"))).refuses(&["clients.crl", "certificate 1 of", "clients.pem"]);
    Disk::with_list(|_| "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned())
        .refuses(&["clients.crl", "revocation list 1 can't be read"]);
    // A second CA without one.
    let disk = Disk::with_list(good);
    write(&disk.files.client_ca, &(disk.authority.pem() + &Authority::new("second").pem()));
    disk.refuses(&["clients.crl", "certificate 2 of", "clients.pem"]);
}

#[test]
fn signatures_of_every_usual_kind_are_known() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let mut disk = Disk::with_list(|_| String::new());
        disk.authority = Authority::with_key("clients", KeyPair::generate_for(algorithm).unwrap());
        write(&disk.files.client_ca, &disk.authority.pem());
        write(disk.files.client_crl.as_ref().unwrap(), &disk.authority.revocation_list(&[], HOUR));
        let source = disk.source().unwrap();
        assert_eq!(judged(&source, &disk.authority.client(CALLER)), Ok(()), "{algorithm:?}");
    }
}

/// Reads again, as the poll does.
fn follow(source: &mut Source, disk: &Disk) -> bool {
    source.follow(disk.files.read(), Timestamp::now())
}

fn served(source: &Source) -> Vec<u8> {
    let resolver = &source.terms().unwrap().config.cert_resolver;
    format!("{resolver:?}").into_bytes()
}

#[test]
fn a_change_is_taken_when_two_readings_agree_and_a_bad_one_never() {
    let disk = Disk::new();
    let mut source = disk.source().unwrap();
    assert!(!follow(&mut source, &disk) && !follow(&mut source, &disk), "nothing has changed");
    let first = served(&source);

    // Half of a pair, for however long: the last good one stays.
    let next = disk.authority.server();
    write(&disk.files.certificate, &next.certificate);
    assert!((0..4).all(|_| !follow(&mut source, &disk)));
    write(&disk.files.private_key, &next.key);
    assert!(!follow(&mut source, &disk), "seen once");
    assert!(follow(&mut source, &disk), "seen twice");
    assert_ne!(served(&source), first);
    assert!(!follow(&mut source, &disk) && !follow(&mut source, &disk));

    // A file that is gone, is written to all the time, or is damaged.
    let second = served(&source);
    fs::remove_file(&disk.files.certificate).unwrap();
    assert!((0..4).all(|_| !follow(&mut source, &disk)));
    for length in [0, 100, 200, 300] {
        write(&disk.files.certificate, &next.certificate[..length]);
        assert!(!follow(&mut source, &disk));
    }
    fs::set_permissions(&disk.files.private_key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!((0..4).all(|_| !follow(&mut source, &disk)));
    assert_eq!(served(&source), second);
}

#[test]
fn a_bad_pair_does_not_hold_up_a_revocation() {
    let disk = Disk::with_list(|authority| authority.revocation_list(&[], HOUR));
    let stolen = disk.authority.client(CALLER);
    let mut source = disk.source().unwrap();
    write(&disk.files.private_key, "");
    write(disk.files.client_crl.as_ref().unwrap(), &disk.authority.revocation_list(&[&stolen], HOUR));
    assert!(!follow(&mut source, &disk) && follow(&mut source, &disk));
    assert_eq!(judged(&source, &stolen), Err(Refusal::Revoked));
}

#[test]
fn a_mistake_about_one_authority_does_not_hold_up_what_another_revokes() {
    const DAMAGED: &str = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    const BROKEN: &str = "-----BEGIN X509 CRL-----\n!!!!\n-----END X509 CRL-----\n";
    let second = Authority::new("second");
    type Mistake = fn(&Disk, &Authority, String);
    let mistakes: [(&str, Mistake); 5] = [
        ("a second CA without its list", |disk, second, newer| {
            write(&disk.files.client_ca, &(disk.authority.pem() + &second.pem()));
            write(disk.files.client_crl.as_ref().unwrap(), &newer);
        }),
        ("CAs that are gone", |disk, _, newer| {
            fs::remove_file(&disk.files.client_ca).unwrap();
            write(disk.files.client_crl.as_ref().unwrap(), &newer);
        }),
        ("a list that is none", |disk, _, newer| {
            write(disk.files.client_crl.as_ref().unwrap(), &(DAMAGED.to_owned() + &newer));
        }),
        ("a list that is no PEM", |disk, _, newer| {
            write(disk.files.client_crl.as_ref().unwrap(), &(BROKEN.to_owned() + &newer));
        }),
        ("an older list beside it", |disk, _, newer| {
            write(disk.files.client_crl.as_ref().unwrap(), &(newer + &disk.authority.numbered_list(4, &[], HOUR)));
        }),
    ];
    for (name, mistake) in mistakes {
        let disk = Disk::with_list(|authority| authority.numbered_list(5, &[], HOUR));
        let (good, stolen) = (disk.authority.client(CALLER), disk.authority.client(CALLER));
        let mut source = disk.source().unwrap();
        mistake(&disk, &second, disk.authority.numbered_list(6, &[&stolen], HOUR));
        assert!(!follow(&mut source, &disk) && follow(&mut source, &disk), "{name}");
        assert_eq!(judged(&source, &stolen), Err(Refusal::Revoked), "{name}");
        assert_eq!(judged(&source, &good), Ok(()), "{name}");
        assert_eq!(judged(&source, &second.client(CALLER)), Err(Refusal::UnknownCa), "{name}");
        assert!(!follow(&mut source, &disk), "{name}: once");
    }
    // One that another key signed in its name is not its list.
    let disk = Disk::with_list(|authority| authority.numbered_list(5, &[], HOUR));
    let client = disk.authority.client(CALLER);
    let mut source = disk.source().unwrap();
    write(disk.files.client_crl.as_ref().unwrap(), &Authority::new("clients").numbered_list(6, &[&client], HOUR));
    assert!((0..4).all(|_| !follow(&mut source, &disk)));
    assert_eq!(judged(&source, &client), Ok(()));
}

#[test]
fn no_list_is_exchanged_for_an_older_one() {
    let mut disk = Disk::with_list(|authority| authority.numbered_list(5, &[], HOUR));
    let stolen = disk.authority.client(CALLER);
    let mut source = disk.source().unwrap();
    let list = disk.files.client_crl.clone().unwrap();
    write(&list, &disk.authority.numbered_list(6, &[&stolen], HOUR));
    assert!(!follow(&mut source, &disk) && follow(&mut source, &disk));
    write(&list, &disk.authority.numbered_list(5, &[], HOUR));
    assert!((0..4).all(|_| !follow(&mut source, &disk)));
    assert_eq!(judged(&source, &stolen), Err(Refusal::Revoked));
    write(&list, &disk.authority.numbered_list(7, &[], HOUR));
    assert!(!follow(&mut source, &disk) && follow(&mut source, &disk), "a newer one may take it back");
    assert_eq!(judged(&source, &stolen), Ok(()));
    // Another CA of that name has numbers of its own.
    disk.authority = Authority::new("clients");
    write(&list, &disk.authority.numbered_list(1, &[], HOUR));
    write(&disk.files.client_ca, &disk.authority.pem());
    assert!(!follow(&mut source, &disk) && follow(&mut source, &disk));
    assert_eq!(judged(&source, &disk.authority.client(CALLER)), Ok(()));
}

#[test]
fn a_swapped_symbolic_link_is_a_change() {
    let mut disk = Disk::new();
    let second = Authority::new("second");
    let versions = [("1", disk.authority.pem()), ("2", second.pem())].map(|(name, pem)| {
        let version = disk.folder.path().join(name);
        fs::create_dir(&version).unwrap();
        write(&version.join("clients.pem"), &pem);
        version
    });
    let link = disk.folder.path().join("current");
    symlink(&versions[0], &link).unwrap();
    disk.files.client_ca = link.join("clients.pem");
    let mut source = disk.source().unwrap();
    let swapped = disk.folder.path().join("next");
    symlink(&versions[1], &swapped).unwrap();
    fs::rename(&swapped, &link).unwrap();
    assert!(!follow(&mut source, &disk) && follow(&mut source, &disk));
    assert_eq!(judged(&source, &disk.authority.client(CALLER)), Err(Refusal::UnknownCa));
    assert_eq!(judged(&source, &second.client(CALLER)), Ok(()));
}

#[test]
fn what_is_refused_for_its_date_is_taken_when_that_comes() {
    let disk = Disk::new();
    let mut source = disk.source().unwrap();
    disk.write_server(&disk.authority.issue(|params| {
        good_between(params, HOUR, 2 * HOUR);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }));
    assert!((0..4).all(|_| !follow(&mut source, &disk)));
    let later = Timestamp::now() + jiff::SignedDuration::from_mins(90);
    assert!(source.follow(disk.files.read(), later));
}
