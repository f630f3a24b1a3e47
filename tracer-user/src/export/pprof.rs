//! Profiles in the format of pprof (profile.proto of github.com/google/pprof): what `go tool pprof` opens.

use std::collections::HashMap;

use prost::Message;

use crate::binary::Frame;

/// `perftools.profiles.Profile`.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<MappingEntry>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

/// `ValueType`; both are places in the string table, as are all names below.
#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

/// `Sample`.
#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

/// `Label`, of text alone.
#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

/// `Mapping`.
#[derive(Clone, PartialEq, Message)]
struct MappingEntry {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

/// `Location`.
#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

/// `Line`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

/// `Function`.
#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// The code that a profile's addresses are in.
#[derive(Clone, Debug)]
pub struct Mapping<'a> {
    /// First address in memory, and the one behind the last.
    pub memory: (u64, u64),
    /// What is at the first address: where it is in the file.
    pub file_offset: u64,
    /// The file.
    pub file: &'a str,
    /// Its build id, in hexadecimal.
    pub build_id: &'a str,
}

/// Locations and labels of a sample.
type SampleKey = (Vec<u64>, Vec<(i64, i64)>);

/// What a profile's values are: name and unit of each.
pub type Kinds<'a> = &'a [(&'a str, &'a str)];

/// A profile in the making: stacks with as many values each as it has kinds.
#[derive(Debug)]
pub struct Builder {
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<u64, u64>,
    samples: HashMap<SampleKey, usize>,
}

impl Builder {
    /// An empty one, of a moment in wall time. The first kind is that of its period.
    #[must_use]
    pub fn new(time_unix_ns: i64, kinds: Kinds<'_>, mapping: &Mapping<'_>) -> Self {
        let mut this = Self {
            profile: Profile { time_nanos: time_unix_ns, period: 1, ..Profile::default() },
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            samples: HashMap::new(),
        };
        // The first string has to be empty.
        this.string("");
        for (kind, unit) in kinds {
            let kind = ValueType { kind: this.string(kind), unit: this.string(unit) };
            this.profile.sample_type.push(kind);
        }
        this.profile.period_type = this.profile.sample_type.first().copied();
        let entry = MappingEntry {
            id: 1,
            memory_start: mapping.memory.0,
            memory_limit: mapping.memory.1,
            file_offset: mapping.file_offset,
            filename: this.string(mapping.file),
            build_id: this.string(mapping.build_id),
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        };
        this.profile.mapping.push(entry);
        this
    }

    /// What it covers: the time that it took, and the distance between two samples, ns. `shown` is the kind that
    /// tools show unless told otherwise.
    pub fn over(&mut self, duration_ns: i64, period_ns: i64, shown: &str) {
        self.profile.duration_nanos = duration_ns;
        self.profile.period = period_ns;
        self.profile.default_sample_type = self.string(shown);
    }

    /// Adds values to a stack: addresses with their frames, both innermost first, and labels.
    pub fn add<'f>(
        &mut self,
        values: &[i64],
        stack: impl IntoIterator<Item = (u64, &'f [Frame])>,
        labels: impl IntoIterator<Item = (&'f str, &'f str)>,
    ) {
        let locations: Vec<u64> =
            stack.into_iter().map(|(address, frames)| self.location(address, frames)).collect();
        let labels: Vec<(i64, i64)> =
            labels.into_iter().map(|(key, text)| (self.string(key), self.string(text))).collect();
        let (samples, kinds) = (&mut self.profile.sample, self.profile.sample_type.len());
        let index = *self.samples.entry((locations, labels)).or_insert_with_key(|(locations, labels)| {
            samples.push(Sample {
                location_id: locations.clone(),
                value: vec![0; kinds],
                label: labels.iter().map(|&(key, text)| Label { key, text }).collect(),
            });
            samples.len() - 1
        });
        for (sum, value) in self.profile.sample[index].value.iter_mut().zip(values) {
            *sum += value;
        }
    }

    /// The bytes of the profile. They are not compressed: pprof takes both.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.profile.encode_to_vec()
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let (name, filename) = (self.string(&frame.function), self.string(&frame.file));
        let functions = &mut self.profile.function;
        *self.functions.entry((name, filename)).or_insert_with(|| {
            let id = functions.len() as u64 + 1;
            functions.push(Function { id, name, system_name: name, filename });
            id
        })
    }

    fn location(&mut self, address: u64, frames: &[Frame]) -> u64 {
        if let Some(known) = self.locations.get(&address) {
            return *known;
        }
        let line = frames
            .iter()
            .map(|frame| Line { function_id: self.function(frame), line: i64::from(frame.line) })
            .collect();
        let id = self.profile.location.len() as u64 + 1;
        // pprof wants a mapping for addresses in it alone; one outside has its functions all the same.
        let mapping = &self.profile.mapping[0];
        let mapping_id = u64::from((mapping.memory_start..mapping.memory_limit).contains(&address));
        self.profile.location.push(Location { id, mapping_id, address, line });
        self.locations.insert(address, id);
        id
    }
}

/// A profile of goroutines in the making.
#[derive(Debug)]
pub struct Goroutines(Builder);

impl Goroutines {
    /// An empty one, of a moment in wall time.
    #[must_use]
    pub fn new(time_unix_ns: i64, mapping: &Mapping<'_>) -> Self {
        Self(Builder::new(time_unix_ns, &[("goroutine", "count")], mapping))
    }

    /// Adds one goroutine: its stack as addresses with their frames, both innermost first, and its labels.
    pub fn add<'f>(
        &mut self,
        stack: impl IntoIterator<Item = (u64, &'f [Frame])>,
        labels: impl IntoIterator<Item = (&'f str, &'f str)>,
    ) {
        self.0.add(&[1], stack, labels);
    }

    /// The bytes of the profile.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, line: u32) -> Frame {
        Frame {
            function: function.to_owned(),
            file: "/srv/main.go".to_owned(),
            line,
            inlined: false,
            offset: 0,
            wrapper: false,
        }
    }

    #[test]
    fn what_is_the_same_is_there_once_and_counted() {
        let mapping = Mapping { memory: (0x1000, 0x2000), file_offset: 0, file: "/srv/x", build_id: "ab" };
        let mut goroutines = Goroutines::new(7, &mapping);
        let (inner, outer) = ([frame("main.a", 1), frame("main.b", 2)], [frame("main.main", 3)]);
        for state in ["chan receive", "chan receive", "select"] {
            goroutines.add([(0x1010, &inner[..]), (0x3000, &outer[..])], [("state", state)]);
        }
        let profile = Profile::decode(goroutines.encode().as_slice()).unwrap();
        assert_eq!(profile.string_table[0], "");
        assert_eq!(profile.sample.iter().map(|s| s.value[0]).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(profile.sample[0].location_id, [1, 2]);
        assert_eq!((profile.location.len(), profile.function.len()), (2, 3));
        assert_eq!(profile.location[0].line.len(), 2);
        assert_eq!(profile.location.iter().map(|l| l.mapping_id).collect::<Vec<_>>(), [1, 0]);
        let text = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
        assert_eq!(text(profile.sample_type[0].kind), "goroutine");
        assert_eq!(text(profile.sample[1].label[0].text), "select");
        assert_eq!(text(profile.function[0].name), "main.a");
    }
}
