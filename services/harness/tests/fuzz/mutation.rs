//! Changes bytes at random. In an archive it is mostly what is packed that changes, for a changed archive is only a damaged one.

use std::io::{Cursor, Read as _, Write as _};

use rand::RngExt as _;
use rand::rngs::SmallRng;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// Numbers at which readers go wrong.
const EDGES: [u32; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
];
const MOST_CHANGES: usize = 8;
/// Bytes that one change takes out, repeats or brings in.
const MOST_BYTES: usize = 512;
/// A packed part that is larger is left as it is.
const LARGEST_PART: u64 = 1 << 20;

pub(crate) fn mutated(seed: &[u8], others: &[&[u8]], dice: &mut SmallRng) -> Vec<u8> {
    if seed.starts_with(b"PK")
        && dice.random_ratio(4, 5)
        && let Some(archive) = repacked(seed, others, dice)
    {
        return archive;
    }
    changed(seed.to_vec(), others, dice)
}

fn changed(mut bytes: Vec<u8>, others: &[&[u8]], dice: &mut SmallRng) -> Vec<u8> {
    for _ in 0..dice.random_range(1..=MOST_CHANGES) {
        change(&mut bytes, others, dice);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, others: &[&[u8]], dice: &mut SmallRng) {
    if bytes.is_empty() {
        bytes.push(dice.random());
        return;
    }
    let at = dice.random_range(0..bytes.len());
    let end = (at + dice.random_range(1..=MOST_BYTES)).min(bytes.len());
    match dice.random_range(0..9) {
        0 => bytes[at] ^= 1 << dice.random_range(0..8),
        1 => bytes[at] = dice.random(),
        2 => edge(bytes, at, dice),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let again = bytes[at..end].to_vec();
            for _ in 0..dice.random_range(1..=4) {
                bytes.splice(at..at, again.iter().copied());
            }
        }
        5 => bytes.truncate(at),
        6 => {
            let other = others[dice.random_range(0..others.len())];
            if !other.is_empty() {
                let from = dice.random_range(0..other.len());
                let to = (from + (end - at)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
        7 => digits(bytes, at, dice),
        _ => {
            // Brackets, tags and groups that are never closed.
            let open = [&b"<a>"[..], b"{", b"[", b"(", b"<<", b"\\'", b"&#", b"="];
            let open = open[dice.random_range(0..open.len())];
            let many = dice.random_range(1..=200);
            bytes.splice(at..at, open.repeat(many));
        }
    }
}

/// A number of some width and order.
fn edge(bytes: &mut [u8], at: usize, dice: &mut SmallRng) {
    let number = EDGES[dice.random_range(0..EDGES.len())];
    let wide = [number.to_le_bytes(), number.to_be_bytes()][dice.random_range(0..2)];
    let width = [1, 2, 4][dice.random_range(0..3)];
    for (byte, new) in bytes[at..].iter_mut().zip(&wide[..width]) {
        *byte = *new;
    }
}

/// The number that is written next, as another.
fn digits(bytes: &mut Vec<u8>, at: usize, dice: &mut SmallRng) {
    let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let from = at + from;
    let length = bytes[from..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let to = from + length.count();
    let number = match dice.random_range(0..4) {
        0 => "0".to_owned(),
        1 => "-1".to_owned(),
        2 => "99999999999999999999".to_owned(),
        _ => EDGES[dice.random_range(0..EDGES.len())].to_string(),
    };
    bytes.splice(from..to, number.into_bytes());
}

/// The archive with one of its parts changed.
fn repacked(seed: &[u8], others: &[&[u8]], dice: &mut SmallRng) -> Option<Vec<u8>> {
    let mut archive = ZipArchive::new(Cursor::new(seed)).ok()?;
    let chosen = dice.random_range(0..archive.len().max(1));
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for index in 0..archive.len() {
        let mut part = archive.by_index(index).ok()?;
        let mut bytes = Vec::new();
        if part.size() > LARGEST_PART || part.read_to_end(&mut bytes).is_err() {
            return None;
        }
        if index == chosen {
            bytes = changed(bytes, others, dice);
        }
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let name = part.name().ok()?.into_owned();
        writer.start_file(name, options).ok()?;
        writer.write_all(&bytes).ok()?;
    }
    Some(writer.finish().ok()?.into_inner())
}
