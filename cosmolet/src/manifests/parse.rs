//! One file's bytes to objects. Pure.
//!
//! Bad input is refused before it costs memory or time: a file past [`MAX_FILE`], a YAML document past
//! [`MAX_DOCUMENT`] (the parser holds the events of a whole document; Kubernetes itself takes no object past 1.5 MiB),
//! brackets past [`MAX_DEPTH`] (the parser's time grows with their square), aliases past [`MAX_ALIASES`] (the parser's
//! own limit allows for gigabytes), more than [`MAX_OBJECTS`] objects.

use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::kubernetes::project::objects::Project;
use crate::kubernetes::project::{Kind, Object, Selection};

/// The longest file that is read, in bytes.
pub const MAX_FILE: u64 = 16 << 20;
/// The longest YAML document, in bytes. A JSON file may hold a List as long as a file.
pub const MAX_DOCUMENT: usize = 2 << 20;
/// The most objects that a file may hold.
pub const MAX_OBJECTS: usize = 50_000;

/// The most brackets that may be open at once in a YAML document.
pub(super) const MAX_DEPTH: usize = 256;
/// The most aliases in a YAML document, which then may have at most [`MAX_ALIASED`] bytes.
pub(super) const MAX_ALIASES: usize = 16;
/// The longest YAML document with aliases, in bytes. 16 of them can at worst repeat that about 400 times.
pub(super) const MAX_ALIASED: usize = 64 << 10;

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The line, counted from 1, where it is known.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) reason: String,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// Reads all objects of a file. Kinds that do not matter here are passed over.
pub(super) fn parse(bytes: &[u8], format: Format, selection: &Selection) -> Result<Vec<Object>, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = lines(&bytes[..error.valid_up_to()]);
        Refusal { line: Some(line), reason: "not UTF-8".to_owned() }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut objects = Vec::new();
    match format {
        Format::Json => Document::Json(text).read(selection, &mut objects)?,
        Format::Yaml => {
            for (first_line, document) in documents(text) {
                Document::Yaml(document).read(selection, &mut objects).map_err(|mut refusal| {
                    refusal.line = Some(refusal.line.unwrap_or(1) + first_line);
                    refusal
                })?;
            }
        }
    }
    Ok(objects)
}

/// The YAML documents that hold anything, each with the number of lines before it. A line that begins with `---` or
/// `...` ends a document wherever it stands, even inside a scalar (YAML 1.2, 9.1.2), so no parser is needed for it.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut at, mut empty) = (0, 0, 0, true);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") || is_marker(line, "...") {
            if !empty {
                found.push((start_line, &text[start..at]));
            }
            // `...` alone has no content; `---` may have some on its line.
            let skipped = if line.starts_with("...") { line.len() } else { 3 };
            (start, start_line, empty) = (at + skipped, number + usize::from(line.starts_with("...")), true);
        }
        empty &= is_empty(&text[start.max(at)..at + line.len()]);
        at += line.len();
    }
    if !empty {
        found.push((start_line, &text[start..]));
    }
    found
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_empty(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line.starts_with("%YAML") || line.starts_with("%TAG")
}

/// Refuses a YAML document that would cost too much. Judged by the bare text, so brackets and stars within scalars
/// count too: the limits are far above what a manifest has.
fn check_cost(text: &str) -> Result<(), String> {
    if text.len() > MAX_DOCUMENT {
        return Err(format!("a YAML document of {} bytes; at most {MAX_DOCUMENT} are read", text.len()));
    }
    let (mut depth, mut anchors, mut aliases, mut before) = (0_usize, 0_usize, 0_usize, b'\n');
    for byte in text.bytes() {
        let starts_token = before.is_ascii_whitespace() || matches!(before, b',' | b'[' | b'{' | b':' | b'?' | b'-');
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'&' if starts_token => anchors += 1,
            b'*' if starts_token => aliases += 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("brackets nested more than {MAX_DEPTH} deep"));
        }
        before = byte;
    }
    if anchors > 0 && aliases > 0 && (aliases > MAX_ALIASES || text.len() > MAX_ALIASED) {
        return Err(format!(
            "{aliases} aliases in {} bytes; at most {MAX_ALIASES} in {MAX_ALIASED} are read",
            text.len()
        ));
    }
    Ok(())
}

/// A document's kind; the rest is passed over.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
}

/// What a document is about.
enum Content {
    One(Kind),
    /// Of any kinds, or of one that the items do not repeat.
    List(Option<Kind>),
    Other,
}

impl Head {
    fn content(&self) -> Result<Content, String> {
        let Some(kind) = self.kind.as_deref() else { return Err("no `kind`".to_owned()) };
        let version = self.api_version.as_deref().unwrap_or_default();
        let fits = |of: Kind| version == api_version(of);
        if kind == "List" && version == "v1" {
            return Ok(Content::List(None));
        }
        for of in Kind::ALL {
            if kind == of.as_str() && fits(of) {
                return Ok(Content::One(of));
            }
            if kind.strip_suffix("List") == Some(of.as_str()) && fits(of) {
                return Ok(Content::List(Some(of)));
            }
            if kind == of.as_str() && version.is_empty() {
                return Err(format!("a {kind} without `apiVersion: {}`", api_version(of)));
            }
        }
        Ok(Content::Other)
    }
}

const fn api_version(kind: Kind) -> &'static str {
    match kind {
        Kind::Service | Kind::Node | Kind::Pod => "v1",
        Kind::EndpointSlice => "discovery.k8s.io/v1",
    }
}

/// The text of one document.
#[derive(Clone, Copy)]
enum Document<'a> {
    Yaml(&'a str),
    Json(&'a str),
}

impl Document<'_> {
    fn read(self, selection: &Selection, objects: &mut Vec<Object>) -> Result<(), Refusal> {
        if let Self::Yaml(text) = self {
            check_cost(text).map_err(refusal)?;
        }
        match self.decode::<Head>()?.content().map_err(refusal)? {
            Content::One(Kind::Service) => add(&self.decode::<Service>()?, selection, objects).map_err(refusal),
            Content::One(Kind::EndpointSlice) => {
                add(&self.decode::<EndpointSlice>()?, selection, objects).map_err(refusal)
            }
            Content::One(Kind::Node) => add(&self.decode::<Node>()?, selection, objects).map_err(refusal),
            Content::One(Kind::Pod) => add(&self.decode::<Pod>()?, selection, objects).map_err(refusal),
            Content::List(kind) => self.decode_list(kind, selection, objects),
            Content::Other => Ok(()),
        }
    }

    fn decode<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        match self {
            Self::Yaml(text) => serde_path_to_error::deserialize(serde_yaml_ng::Deserializer::from_str(text))
                .map_err(|error| yaml_refusal(error.inner())),
            Self::Json(text) => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                let value =
                    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| json_refusal(error.inner()))?;
                deserializer.end().map_err(|error| json_refusal(&error))?;
                Ok(value)
            }
        }
    }

    fn decode_list(self, kind: Option<Kind>, selection: &Selection, objects: &mut Vec<Object>) -> Result<(), Refusal> {
        match self {
            Self::Yaml(text) => serde_yaml_ng::Deserializer::from_str(text)
                .deserialize_map(Items::<Value> { kind, selection, objects, item: PhantomData })
                .map_err(|error| yaml_refusal(&error)),
            Self::Json(text) => serde_json::Deserializer::from_str(text)
                .deserialize_map(Items::<&RawValue> { kind, selection, objects, item: PhantomData })
                .map_err(|error| json_refusal(&error)),
        }
    }
}

/// One item of a List, not decoded yet.
trait Item<'de>: Deserialize<'de> {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String>;
}

impl Item<'_> for Value {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_path_to_error::deserialize(self).map_err(|error| error.to_string())
    }
}

/// JSON is decoded from its text, which is twice as fast as by way of a [`Value`].
impl<'de> Item<'de> for &'de RawValue {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_str(self.get()).or_else(|_unnamed| {
            // The error would count lines from the item's first one and not name the field: once more, to name it.
            serde_json::from_str::<Value>(self.get()).map_err(|error| error.to_string())?.decode()
        })
    }
}

/// Takes the items of a List one by one, so that a long one is never held decoded.
struct Items<'a, I> {
    kind: Option<Kind>,
    selection: &'a Selection,
    objects: &'a mut Vec<Object>,
    item: PhantomData<I>,
}

impl<'de, I: Item<'de>> Items<'_, I> {
    fn take(&mut self, item: &I) -> Result<(), String> {
        let content = match self.kind {
            Some(kind) => Content::One(kind),
            None => item.decode::<Head>()?.content()?,
        };
        match content {
            Content::One(Kind::Service) => self.add::<Service>(item),
            Content::One(Kind::EndpointSlice) => self.add::<EndpointSlice>(item),
            Content::One(Kind::Node) => self.add::<Node>(item),
            Content::One(Kind::Pod) => self.add::<Pod>(item),
            Content::List(_) => Err("a List within a List".to_owned()),
            Content::Other => Ok(()),
        }
    }

    fn add<K: Project + DeserializeOwned>(&mut self, item: &I) -> Result<(), String> {
        add(&item.decode::<K>()?, self.selection, self.objects)
    }
}

impl<'de, I: Item<'de>> Visitor<'de> for Items<'_, I> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a List with `items`")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(ItemSequence(&mut self))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct ItemSequence<'a, 'b, I>(&'a mut Items<'b, I>);

impl<'de, I: Item<'de>> DeserializeSeed<'de> for ItemSequence<'_, '_, I> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, I: Item<'de>> Visitor<'de> for ItemSequence<'_, '_, I> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while let Some(item) = items.next_element::<I>()? {
            self.0.take(&item).map_err(|reason| A::Error::custom(format_args!("items[{index}]: {reason}")))?;
            index += 1;
        }
        Ok(())
    }
}

fn add<K: Project>(object: &K, selection: &Selection, objects: &mut Vec<Object>) -> Result<(), String> {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err(format!("a {} without `metadata.name`", K::KIND.as_str()));
    }
    let named =
        [("name", Some(name)), ("namespace", meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()))];
    if let Some((key, text)) =
        named.into_iter().find_map(|(key, text)| text.filter(|text| !is_name(text)).map(|text| (key, text)))
    {
        return Err(printable(&format!(
            "`metadata.{key}`: {text:?}: must be lower-case letters, digits, - and ., at most 253"
        )));
    }
    if objects.len() == MAX_OBJECTS {
        return Err(format!("more than {MAX_OBJECTS} objects"));
    }
    objects.push(object.project(selection));
    Ok(())
}

/// The names that the API server lets through (RFC 1123): nothing that could break a line of a log or a terminal.
fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    text.len() <= 253 && text.bytes().all(fits)
}

fn refusal(reason: impl Into<String>) -> Refusal {
    Refusal { line: None, reason: reason.into() }
}

fn yaml_refusal(error: &serde_yaml_ng::Error) -> Refusal {
    Refusal { line: error.location().map(|location| location.line()), reason: printable(&error.to_string()) }
}

fn json_refusal(error: &serde_json::Error) -> Refusal {
    Refusal { line: Some(error.line()).filter(|line| *line > 0), reason: printable(&error.to_string()) }
}

/// Fit for a log line: input may stand in an error's text. Its own line counts from the document's beginning.
fn printable(text: &str) -> String {
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
    text.chars().take(300).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The number of the line that follows these bytes.
fn lines(before: &[u8]) -> usize {
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Object>, Refusal> {
        parse(text.as_bytes(), Format::Yaml, &Selection::new("n1"))
    }

    #[test]
    fn documents_are_split_at_their_markers() {
        for (text, wanted) in [
            ("", vec![]),
            ("---\n# c\n...\n---\n", vec![]),
            ("a: 1", vec![(0, "a: 1")]),
            ("a: 1\n---\nb: 2\n", vec![(0, "a: 1\n"), (1, "\nb: 2\n")]),
            ("%YAML 1.1\n--- # c\na: 1\n...\n# d\n---\n", vec![(1, " # c\na: 1\n")]),
            ("--- {a: 1}\n--- {b: 2}", vec![(0, " {a: 1}\n"), (1, " {b: 2}")]),
            ("a: |\n  ---\n  x\n----\n", vec![(0, "a: |\n  ---\n  x\n----\n")]),
            ("a: 1\r\n---\r\nb: 2\r\n", vec![(0, "a: 1\r\n"), (1, "\r\nb: 2\r\n")]),
            ("a: 1\n...\nb: 2\n", vec![(0, "a: 1\n"), (2, "b: 2\n")]),
        ] {
            assert_eq!(documents(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_few_aliases_are_read() {
        let text = "kind: Pod\napiVersion: v1\nmetadata: {name: p, labels: &l {a: b}}\nspec: {nodeName: n1, containers: [], \
                    nodeSelector: *l}\n";
        assert_eq!(read(text).map(|objects| objects.len()), Ok(1));
    }

    /// A document costs milliseconds at worst, whatever is in it.
    #[test]
    fn costly_documents_are_refused() {
        let head = "kind: List\napiVersion: v1\n";
        let aliases = format!("{head}a: &a [{}]\nitems: [{}]\n", "x,".repeat(9), "*a,".repeat(17));
        let long = format!("{head}a: &a [{}]\nitems: [*a]\n", "x,".repeat(40_000));
        let brackets = format!("{head}items: {}", "[".repeat(500_000));
        let maps = format!("{head}items: {}", "{a: ".repeat(300));
        for (text, reason) in
            [(aliases, "17 aliases"), (long, "1 aliases"), (brackets, "brackets nested"), (maps, "brackets nested")]
        {
            let refusal = read(&text).unwrap_err();
            assert!(refusal.reason.contains(reason), "{}", refusal.reason);
        }
        let dashes = read(&format!("{head}items: \n{}x\n", "- ".repeat(100_000))).unwrap_err();
        assert!(dashes.reason.contains("recursion limit"), "{}", dashes.reason);
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let good = "kind: Pod\napiVersion: v1\nmetadata: {name: p}\n";
        for (text, line) in [
            (format!("{good}---\n{good}spec: 3\n"), 8),
            (format!("{good}---\n{good}---\nkind: [\n"), 9),
            (format!("---\n{good}--- \n: : :\n"), 6),
        ] {
            assert_eq!(read(&text).unwrap_err().line, Some(line), "{text}");
        }
    }
}
