use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// A secret's fields, to compare with: a [`Secret`] itself can't be compared.
fn fields(secret: &Secret) -> (Kind, Vec<Vec<u8>>, [Option<Timestamp>; 2]) {
    let octets = |text: &str| text.as_bytes().to_vec();
    let fields = match secret {
        Secret::SalesforceOAuth(oauth) => {
            let tokens = [oauth.access_token.expose_secret(), oauth.refresh_token.expose_secret()];
            let urls = [oauth.instance_url.as_str(), &oauth.token_url, &oauth.identity_url];
            tokens.into_iter().chain(urls).chain(oauth.scopes.iter().map(String::as_str)).map(octets).collect()
        }
        Secret::Password(password) => [
            password.username.expose_secret(),
            password.password.expose_secret(),
            password.security_token.expose_secret(),
            &password.login_url,
        ]
        .map(octets)
        .to_vec(),
        Secret::Opaque(opaque) => vec![opaque.data.expose_secret().to_vec(), octets(&opaque.content_type)],
    };
    (secret.kind(), fields, [secret.issue_time(), secret.access_token_expire_time()])
}

fn some_time() -> impl Strategy<Value = Option<Timestamp>> {
    let nanoseconds = Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond();
    option::of(nanoseconds.prop_map(|nanosecond| Timestamp::from_nanosecond(nanosecond).unwrap()))
}

fn secret_string() -> impl Strategy<Value = SecretString> {
    ".{0,40}".prop_map(SecretString::new)
}

fn some_secret() -> impl Strategy<Value = Secret> {
    let urls = [".{0,40}", ".{0,40}", ".{0,40}"];
    let oauth = (secret_string(), secret_string(), urls, vec(".{0,20}", 0..5), some_time(), some_time()).prop_map(
        |(access_token, refresh_token, [instance_url, token_url, identity_url], scopes, issue_time, expire_time)| {
            Secret::SalesforceOAuth(SalesforceOAuth {
                access_token,
                refresh_token,
                instance_url,
                token_url,
                identity_url,
                scopes,
                issue_time,
                access_token_expire_time: expire_time,
            })
        },
    );
    let password = (secret_string(), secret_string(), secret_string(), ".{0,40}").prop_map(
        |(username, password, security_token, login_url)| {
            Secret::Password(Password { username, password, security_token, login_url })
        },
    );
    let opaque = (vec(any::<u8>(), 0..2_000), ".{0,40}")
        .prop_map(|(data, content_type)| Secret::Opaque(Opaque { data: SecretOctets::new(data), content_type }));
    prop_oneof![oauth, password, opaque]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_as_it_was(secret in some_secret()) {
        let before = fields(&secret);
        let plaintext = encode(secret).unwrap();
        prop_assert_eq!(plaintext.expose_secret().first(), Some(&ENCODING));
        for kind in Kind::ALL {
            match decode(kind, &plaintext) {
                Ok(secret) => {
                    prop_assert_eq!(kind, before.0);
                    prop_assert_eq!(&fields(&secret), &before);
                    // What is sealed again is the same octets: a retry is recognised by them.
                    prop_assert!(encode(secret).unwrap().is_same(&plaintext));
                }
                Err(error) => prop_assert!(kind != before.0 && error == DecodeError::Malformed),
            }
        }
    }

    #[test]
    fn any_octets_are_decoded_or_refused(octets in vec(any::<u8>(), 0..200), first in 0_u8..4) {
        let octets = [&[first], octets.as_slice()].concat();
        let plaintext = Plaintext::new(octets.into()).unwrap();
        for kind in Kind::ALL {
            match decode(kind, &plaintext) {
                Ok(secret) => prop_assert!(first == ENCODING && secret.kind() == kind),
                Err(error) => prop_assert_eq!(error == DecodeError::UnknownEncoding, first != ENCODING),
            }
        }
    }
}

/// Frozen: records outlive releases.
#[test]
fn the_stored_form_does_not_change() {
    let password = Secret::Password(Password {
        username: SecretString::new("u".to_owned()),
        password: SecretString::new("p".to_owned()),
        security_token: SecretString::new(String::new()),
        login_url: "l".to_owned(),
    });
    let stored = [1, 0x12, 9, 0x0a, 1, b'u', 0x12, 1, b'p', 0x22, 1, b'l'];
    assert_eq!(encode(password).unwrap().expose_secret(), stored);
    let oauth = Secret::SalesforceOAuth(SalesforceOAuth {
        access_token: SecretString::new("a".to_owned()),
        refresh_token: SecretString::new("r".to_owned()),
        instance_url: "i".to_owned(),
        token_url: "t".to_owned(),
        identity_url: "d".to_owned(),
        scopes: vec!["s".to_owned(), "z".to_owned()],
        issue_time: Some("1969-12-31T23:59:59.5Z".parse().unwrap()),
        access_token_expire_time: Some("1970-01-01T00:00:05Z".parse().unwrap()),
    });
    let stored = "010a2c0a01611201721a01692201742a016432017332017a\
                  3a1108ffffffffffffffffff011080cab5ee0142020805";
    assert_eq!(hex::encode(encode(oauth).unwrap().expose_secret()), stored);
}

#[test]
fn what_is_no_stored_secret_is_refused() {
    for (octets, wanted) in [
        (&[][..], DecodeError::Malformed),
        (&[0], DecodeError::UnknownEncoding),
        (&[2, 0x1a, 0], DecodeError::UnknownEncoding),
        (&[1], DecodeError::Malformed),
        (&[1, 0x1a], DecodeError::Malformed),
        // Another kind than the context proved.
        (&[1, 0x12, 0], DecodeError::Malformed),
        // No such kind.
        (&[1, 0x22, 0], DecodeError::Malformed),
    ] {
        let plaintext = Plaintext::new(octets.to_vec().into()).unwrap();
        assert_eq!(decode(Kind::Opaque, &plaintext).err(), Some(wanted), "{octets:?}");
    }
}

#[test]
fn a_secret_is_as_long_as_a_plaintext_may_be() {
    // The encoding, the message's field, the field of the data, and their lengths.
    const AROUND: usize = 1 + 4 + 4;
    let opaque = |octets| {
        encode(Secret::Opaque(Opaque { data: SecretOctets::new(vec![7; octets]), content_type: String::new() }))
    };
    assert_eq!(opaque(65_536 - AROUND).unwrap().expose_secret().len(), 65_536);
    assert_eq!(opaque(65_536 - AROUND + 1).err(), Some(PlaintextTooLong));
}

#[test]
fn nothing_prints_a_secret() {
    let password = Password {
        username: SecretString::new("planted".to_owned()),
        password: SecretString::new("planted".to_owned()),
        security_token: SecretString::new("planted".to_owned()),
        login_url: String::new(),
    };
    let opaque = Opaque { data: SecretOctets::new(b"planted".to_vec()), content_type: String::new() };
    for secret in [Secret::Password(password), Secret::Opaque(opaque)] {
        assert!(!format!("{secret:?}").contains("planted"));
        assert!(!format!("{:?}", StoredSecret { value: Some(to_message(secret)) }).contains("planted"));
    }
}
