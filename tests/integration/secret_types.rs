//! A secret has one type, which can't be copied, compared by `==`, made of nothing, or written. Rust would let any of that in by one
//! more word in a derive: here it is noticed.

use serde::{Deserialize, Serialize};
use triseal::crypto::{CodebaseKey, CustomerKey, EnvironmentKey, LocalWrappingKey, Plaintext, Root, Salt};
use triseal::factors::KeySet;
use triseal::factors::document::{KeyDocument, KeyEntry};
use triseal::refresh::LeaseToken;
use triseal::secret::{Opaque, Password, SalesforceOAuth, Secret, SecretOctets, SecretString};

/// Whether a type implements a trait. A constant of the type's own goes before one of a trait, where its bound holds.
macro_rules! implements {
    ($type:ty: $($bound:tt)+) => {{
        struct Probe<T: ?Sized>(std::marker::PhantomData<T>);
        #[allow(dead_code, reason = "where the bound holds")]
        trait Otherwise {
            const HOLDS: bool = false;
        }
        impl<T: ?Sized> Otherwise for Probe<T> {}
        #[allow(dead_code, reason = "where the bound does not hold")]
        impl<T: ?Sized + $($bound)+> Probe<T> {
            const HOLDS: bool = true;
        }
        Probe::<$type>::HOLDS
    }};
}

/// The traits that a secret may not have, and which of them a type has.
macro_rules! forbidden {
    ($type:ty) => {{
        let traits = [
            ("Clone", implements!($type: Clone)),
            ("Copy", implements!($type: Copy)),
            ("Default", implements!($type: Default)),
            ("PartialEq", implements!($type: PartialEq)),
            ("PartialOrd", implements!($type: PartialOrd)),
            ("Hash", implements!($type: std::hash::Hash)),
            ("Serialize", implements!($type: Serialize)),
            ("Deserialize", implements!($type: for<'a> Deserialize<'a>)),
            ("Display", implements!($type: std::fmt::Display)),
            ("AsRef", implements!($type: AsRef<[u8]>)),
            ("Deref", implements!($type: std::ops::Deref)),
        ];
        traits.into_iter().filter_map(|(name, has)| has.then_some(name)).collect::<Vec<_>>()
    }};
}

#[test]
fn a_secret_can_do_nothing_that_leaves_a_copy_or_a_trace() {
    let secrets = [
        ("CodebaseKey", forbidden!(CodebaseKey)),
        ("EnvironmentKey", forbidden!(EnvironmentKey)),
        ("CustomerKey", forbidden!(CustomerKey)),
        ("LocalWrappingKey", forbidden!(LocalWrappingKey)),
        ("Root", forbidden!(Root)),
        ("Plaintext", forbidden!(Plaintext)),
        ("KeySet", forbidden!(KeySet<triseal::crypto::Environment>)),
        ("KeyDocument", forbidden!(KeyDocument)),
        ("KeyEntry", forbidden!(KeyEntry)),
        ("SecretString", forbidden!(SecretString)),
        ("SecretOctets", forbidden!(SecretOctets)),
        ("Secret", forbidden!(Secret)),
        ("SalesforceOAuth", forbidden!(SalesforceOAuth)),
        ("Password", forbidden!(Password)),
        ("Opaque", forbidden!(Opaque)),
        ("LeaseToken", forbidden!(LeaseToken)),
        // No secret, but good for one sealing.
        ("Salt", forbidden!(Salt)),
    ];
    for (name, has) in secrets {
        assert!(has.is_empty(), "{name} has {has:?}");
    }
}

#[test]
fn the_test_sees_what_a_type_can_do() {
    let of_a_string = forbidden!(String);
    let all_but_copy = [
        "Clone",
        "Default",
        "PartialEq",
        "PartialOrd",
        "Hash",
        "Serialize",
        "Deserialize",
        "Display",
        "AsRef",
        "Deref",
    ];
    assert_eq!(of_a_string, all_but_copy);
    assert!(implements!(u8: Copy) && !implements!(std::fs::File: Clone));
}
