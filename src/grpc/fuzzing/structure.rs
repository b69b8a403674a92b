//! Messages of the right structure, with fields that choices fill: a fuzzer that changes the octets of a message seldom leaves one that
//! can be decoded. The protocol's descriptors say what there is to fill, so a new message needs nothing here.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::needles::SENT_SECRET;
use super::requests::Input;
use super::service::LEASE;
use crate::grpc::wire::v1;

/// Messages within messages, at most.
const MAX_DEPTH: usize = 6;
/// A repeated field has so many values, by choice: none, one, some, as many as a batch may have, and one more.
const COUNTS: [usize; 6] = [0, 1, 2, 5, 100, 101];
/// Texts that mean something, or nearly do. An octet above them says how many octets of the input are the text.
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "", "acme", "globex", "initech", "new", "nobody", "crm", "mail", "blob", "gone", "k", SENT_SECRET, "a/b", ".a", "\u{0}", "\u{feff}é",
    "https://a.example/", "http://[::1]", "http://localhost@evil.example", "https://", "YWNtZQ", "YWNtZS9jcm0", "YWNtZS8", "text/plain",
    LEASE,
];
/// The same, by their lengths: at and beyond the protocol's limits.
const LENGTHS: [usize; 12] = [127, 128, 129, 255, 256, 257, 1_025, 2_049, 4_097, 16_384, 32_769, 65_536];
/// Numbers that mean something, or nearly do.
#[rustfmt::skip]
const NUMBERS: [u64; 16] = [
    0, 1, 2, 3, 4, 7, 30, 31, 100, 1_000, 1_001, 999_999_999, u32::MAX as u64, i32::MIN as u64, i64::MAX as u64, u64::MAX,
];

/// What the protocol has, by whole names.
struct Protocol {
    messages: HashMap<String, DescriptorProto>,
    /// The types of requests, by the paths of their methods.
    requests: HashMap<String, String>,
}

static PROTOCOL: LazyLock<Protocol> = LazyLock::new(|| {
    let (mut messages, mut requests) = (HashMap::new(), HashMap::new());
    for file in FileDescriptorSet::decode(v1::DESCRIPTORS).unwrap_or_default().file {
        let package = file.package().to_owned();
        for service in file.service {
            for method in &service.method {
                let path = format!("/{package}.{}/{}", service.name(), method.name());
                requests.insert(path, method.input_type().to_owned());
            }
        }
        for message in file.message_type {
            messages.insert(format!(".{package}.{}", message.name()), message);
        }
    }
    Protocol { messages, requests }
});

/// The paths of all methods of the protocol.
#[cfg(test)]
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    PROTOCOL.requests.keys().map(String::as_str).filter(|path| path.starts_with("/triseal.v1."))
}

/// The type of a method's requests.
pub(super) fn request_of(path: &str) -> Option<&'static DescriptorProto> {
    PROTOCOL.messages.get(PROTOCOL.requests.get(path)?)
}

/// A message, encoded. Where the input ends, its fields do.
pub(super) fn message(input: &mut Input<'_>, of: &'static DescriptorProto) -> Vec<u8> {
    let mut octets = Vec::new();
    write_message(input, of, MAX_DEPTH, &mut octets);
    octets
}

fn write_message(input: &mut Input<'_>, of: &'static DescriptorProto, depth: usize, octets: &mut Vec<u8>) {
    for field in &of.field {
        let Some(choice) = input.octet() else { return };
        let count = match field.label() {
            Label::Repeated => COUNTS.get(usize::from(choice) % COUNTS.len()).copied().unwrap_or_default(),
            Label::Optional | Label::Required => usize::from(choice % 2),
        };
        // Many are the same: each by a choice of its own would take more octets than a fuzzer has.
        let mut value = Vec::new();
        if count > 0 {
            write_field(input, field, depth, &mut value);
        }
        for _ in 0..count {
            octets.extend_from_slice(&value);
        }
    }
}

fn write_field(input: &mut Input<'_>, field: &'static FieldDescriptorProto, depth: usize, octets: &mut Vec<u8>) {
    let number = field.number().unsigned_abs();
    match kind(field) {
        Some(Kind::Number) => {
            encode_key(number, WireType::Varint, octets);
            let choice = input.octet().unwrap_or_default();
            encode_varint(NUMBERS.get(usize::from(choice)).copied().unwrap_or_else(|| choice.into()), octets);
        }
        Some(Kind::Text) => write_text(number, &text(input), octets),
        Some(Kind::Message(of)) if depth > 0 => {
            let mut inner = Vec::new();
            write_message(input, of, depth - 1, &mut inner);
            write_text(number, &inner, octets);
        }
        Some(Kind::Message(_)) | None => {}
    }
}

fn write_text(number: u32, text: &[u8], octets: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, octets);
    encode_varint(text.len() as u64, octets);
    octets.extend_from_slice(text);
}

fn text(input: &mut Input<'_>) -> Vec<u8> {
    let choice = usize::from(input.octet().unwrap_or_default());
    match (TEXTS.get(choice), choice.checked_sub(TEXTS.len()).and_then(|choice| LENGTHS.get(choice))) {
        (Some(known), _) => known.as_bytes().to_vec(),
        (None, Some(length)) => vec![b'a'; *length],
        (None, None) => input.text().unwrap_or_default().to_vec(),
    }
}

/// How a field is written.
enum Kind {
    Number,
    Text,
    Message(&'static DescriptorProto),
}

/// `None`: this can't fill a field of that type. A test says whether the protocol has any.
fn kind(field: &FieldDescriptorProto) -> Option<Kind> {
    match field.r#type() {
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum => Some(Kind::Number),
        Type::String | Type::Bytes => Some(Kind::Text),
        Type::Message => PROTOCOL.messages.get(field.type_name()).map(Kind::Message),
        _ => None,
    }
}

/// The fields that this can't fill.
#[cfg(test)]
pub(super) fn unknown_fields() -> Vec<String> {
    let ours = PROTOCOL.messages.iter().filter(|(name, _)| name.starts_with(".triseal.v1."));
    let unknown = |field: &&FieldDescriptorProto| kind(field).is_none();
    let fields = ours.flat_map(|(name, message)| {
        message.field.iter().filter(unknown).map(move |field| format!("{name}.{}", field.name()))
    });
    fields.collect()
}
