#![expect(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

fn limits(target: usize, overlap: usize, max: usize) -> ChunkLimits {
    ChunkLimits::try_new(target, overlap, max).unwrap()
}

fn parts<'a>(text: &'a str, chunked: &Chunked) -> Vec<&'a str> {
    chunked
        .chunks
        .iter()
        .map(|chunk| &text[chunk.start..chunk.end])
        .collect()
}

#[test]
fn limits_that_cut_nothing_are_refused() {
    assert_eq!(
        ChunkLimits::try_new(7, 0, 1),
        Err(InvalidChunkLimits::TargetTooSmall)
    );
    assert_eq!(
        ChunkLimits::try_new(8, 5, 1),
        Err(InvalidChunkLimits::OverlapTooLarge)
    );
    assert_eq!(
        ChunkLimits::try_new(8, 4, 0),
        Err(InvalidChunkLimits::NoChunks)
    );
}

#[test]
fn a_short_text_is_one_chunk_without_its_margins() {
    let text = "\n\n  Hello there.  \n";
    let chunked = chunk(text, limits(50, 10, 5), words);
    assert_eq!(parts(text, &chunked), ["Hello there."]);
    assert!(!chunked.truncated);
}

#[test]
fn a_text_of_white_space_has_no_chunk() {
    for text in ["", " ", "\n\n\u{c}\t   ", &" ".repeat(100_000)] {
        let chunked = chunk(text, limits(8, 4, 1), words);
        assert_eq!(
            chunked,
            Chunked {
                chunks: Vec::new(),
                truncated: false
            }
        );
    }
}

#[test]
fn a_chunk_ends_with_a_paragraph_before_a_sentence_and_a_sentence_before_a_line() {
    let text =
        "One two three four five six seven eight.\n\nNine ten. Eleven twelve thirteen fourteen.";
    assert_eq!(
        parts(text, &chunk(text, limits(11, 0, 9), words)),
        [
            "One two three four five six seven eight.",
            "Nine ten. Eleven twelve thirteen fourteen."
        ]
    );
    let text =
        "One two three four five six seven eight.\nNine\nten\neleven twelve thirteen fourteen.";
    assert_eq!(
        parts(text, &chunk(text, limits(10, 0, 9), words))[0],
        "One two three four five six seven eight."
    );
}

#[test]
fn the_next_chunk_repeats_the_last_sentence_where_it_is_short_enough() {
    let text =
        "One two three four. Five six seven. Eight nine. Ten eleven twelve. Thirteen fourteen.";
    assert_eq!(
        parts(text, &chunk(text, limits(9, 3, 9), words)),
        [
            "One two three four. Five six seven. Eight nine.",
            "Eight nine. Ten eleven twelve. Thirteen fourteen."
        ]
    );
}

#[test]
fn a_page_break_is_a_paragraph_and_japanese_sentences_need_no_space() {
    let characters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let text = "今日は雨です。明日は晴れます。";
    assert_eq!(
        parts(text, &chunk(text, limits(9, 0, 9), characters)),
        ["今日は雨です。", "明日は晴れます。"]
    );
    let text = "end of page one without a stop\u{c}page two begins here and goes on";
    assert_eq!(
        parts(text, &chunk(text, limits(8, 0, 9), words))[0],
        "end of page one without a stop"
    );
}

#[test]
fn a_text_that_needs_more_chunks_than_allowed_is_cut_and_says_so() {
    let text = "word ".repeat(100);
    let chunked = chunk(&text, limits(10, 0, 3), words);
    assert_eq!(chunked.chunks.len(), 3);
    assert!(chunked.truncated);

    let exactly = "one two three four five six seven eight nine ten. ".repeat(3);
    let chunked = chunk(&exactly, limits(10, 0, 3), words);
    assert_eq!((chunked.chunks.len(), chunked.truncated), (3, false));
}

/// Scripts, signs, endless words and endless white space.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => "[a-z]{1,12}",
        2 => "[A-Z][a-z]{1,8}[.!?]",
        2 => Just(" ".to_owned()),
        1 => Just("\n".to_owned()),
        1 => Just("\n\n".to_owned()),
        1 => Just("\u{c}".to_owned()),
        1 => "[あ-ん]{1,30}。",
        1 => "\\PC{0,20}",
        1 => (1usize..700).prop_map(|length| "x".repeat(length)),
        1 => (1usize..700).prop_map(|length| " ".repeat(length)),
    ];
    (
        prop::collection::vec(part, 0..120),
        prop_oneof![Just(" "), Just("")],
    )
        .prop_map(|(parts, between)| parts.join(between))
}

/// Counters as different as tokenizers are: by words, by characters, by bytes.
fn counted(kind: u8, text: &str) -> usize {
    match kind {
        0 => words(text),
        1 => text.chars().count(),
        _ => text.trim().len(),
    }
}

proptest! {
    #[test]
    fn chunks_cover_the_text_in_order_on_character_boundaries_and_within_the_target(
        text in any_text(),
        target in 8usize..120,
        overlap_share in 0usize..=50,
        kind in 0u8..3,
    ) {
        let limits = limits(target, target * overlap_share / 100, usize::MAX);
        let chunked = chunk(&text, limits, |part| counted(kind, part));
        prop_assert!(!chunked.truncated);

        let mut covered = 0;
        let mut previous: Option<Chunk> = None;
        for &chunk in &chunked.chunks {
            let part = text.get(chunk.start..chunk.end);
            prop_assert!(part.is_some_and(|part| !part.is_empty() && part.trim() == part));
            prop_assert!(chunk.tokens >= 1 && chunk.tokens <= target);
            prop_assert!(chunk.end - chunk.start <= target * MAX_PIECE_BYTES);
            if chunk.start > covered {
                prop_assert_eq!(text[covered..chunk.start].trim(), "");
            }
            if let Some(previous) = previous {
                prop_assert!(chunk.start > previous.start && chunk.end > previous.end);
            }
            covered = chunk.end;
            previous = Some(chunk);
        }
        prop_assert_eq!(text[covered..].trim(), "");
    }

    #[test]
    fn a_bounded_run_gives_the_first_chunks_of_an_unbounded_one(
        text in any_text(),
        target in 8usize..60,
        max in 1usize..6,
    ) {
        let all = chunk(&text, limits(target, target / 4, usize::MAX), words);
        let some = chunk(&text, limits(target, target / 4, max), words);
        prop_assert_eq!(&some.chunks[..], &all.chunks[..all.chunks.len().min(max)]);
        prop_assert_eq!(some.truncated, all.chunks.len() > max);
    }
}
