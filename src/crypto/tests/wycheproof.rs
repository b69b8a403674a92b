//! Project Wycheproof's vectors for the two primitives, called as the rest of `crypto` calls them: they would notice a
//! dependency's new version that lost a check. How many ran is asserted, so that none can drop out unseen.

use ::wycheproof::TestResult;
use ::wycheproof::aead::{TestName as Aead, TestSet as AeadSet};
use ::wycheproof::hkdf::{TestName as Hkdf, TestSet as HkdfSet};
use sha2::Sha256;

use crate::crypto::aead::{Nonce, SealingKey, open, seal};
use crate::crypto::kdf::expand;

#[test]
fn aes_256_gcm() {
    let groups = AeadSet::load(Aead::AesGcm).unwrap().test_groups;
    let ours = groups.iter().filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128));
    let (mut valid, mut invalid) = (0, 0);
    for test in ours.flat_map(|group| &group.tests) {
        let name = format!("test {}: {}", test.tc_id, test.comment);
        let key = || SealingKey::new(test.key[..].try_into().unwrap());
        let nonce = || Nonce::new(test.nonce[..].try_into().unwrap());
        let tag = test.tag[..].try_into().unwrap();

        let mut opened = test.ct.to_vec();
        let verdict = open(key(), nonce(), &test.aad, &mut opened, &tag);
        let mut sealed = test.pt.to_vec();
        let sealed_tag = seal(key(), nonce(), &test.aad, &mut sealed);
        match test.result {
            TestResult::Valid => {
                assert!(verdict.is_ok() && opened == *test.pt, "{name}");
                assert!(sealed == *test.ct && sealed_tag == tag, "{name}");
                valid += 1;
            }
            TestResult::Invalid => {
                assert!(verdict.is_err() && opened == *test.ct, "{name}");
                assert!(sealed != *test.ct || sealed_tag != tag, "{name}");
                invalid += 1;
            }
            TestResult::Acceptable => panic!("{name}: no verdict"),
        }
    }
    assert_eq!((valid, invalid), (39, 27));
}

/// Our derivations fix salts, labels and lengths, which the vectors vary. So the crate is checked with the vectors'
/// own, and our expansion beside it wherever a length is short enough to be one of its types.
#[test]
fn hkdf_sha_256() {
    let groups = HkdfSet::load(Hkdf::HkdfSha256).unwrap().test_groups;
    let (mut valid, mut by_ours, mut invalid) = (0, 0, 0);
    for test in groups.iter().flat_map(|group| &group.tests) {
        let name = format!("test {}: {}", test.tc_id, test.comment);
        let (prk, hkdf) = ::hkdf::Hkdf::<Sha256>::extract(Some(&test.salt), &test.ikm);
        let mut okm = vec![0; test.size];
        let verdict = hkdf.expand(&test.info, &mut okm);
        match test.result {
            TestResult::Valid => {
                assert!(verdict.is_ok() && okm == *test.okm, "{name}");
                valid += 1;
            }
            TestResult::Invalid => {
                assert!(verdict.is_err(), "{name}");
                invalid += 1;
            }
            TestResult::Acceptable => panic!("{name}: no verdict"),
        }

        // In two pieces, as ours has a label and a rest.
        let (label, rest) = test.info.split_at(test.info.len() / 2);
        let (prk, info) = (prk.into(), &[label, rest]);
        let ours = match test.size {
            20 => expand::<20>(&prk, info).to_vec(),
            32 => expand::<32>(&prk, info).to_vec(),
            42 => expand::<42>(&prk, info).to_vec(),
            64 => expand::<64>(&prk, info).to_vec(),
            80 => expand::<80>(&prk, info).to_vec(),
            82 => expand::<82>(&prk, info).to_vec(),
            8160 => expand::<8160>(&prk, info).to_vec(),
            _ => continue,
        };
        assert!(ours == *test.okm, "{name}");
        by_ours += 1;
    }
    assert_eq!((valid, by_ours, invalid), (83, 81, 3));
}
