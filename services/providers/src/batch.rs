//! Which texts are computed together. Texts of any lengths do: none is padded to another's.

/// Groups texts of `lengths` tokens, in their order, into batches of at most `max_tokens`; a longer text goes alone. Every index
/// appears exactly once.
pub(crate) fn plan(lengths: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, &length) in lengths.iter().enumerate() {
        match batches.last_mut() {
            Some(batch) if tokens + length <= max_tokens => batch.push(index),
            _ => {
                batches.push(vec![index]);
                tokens = 0;
            }
        }
        tokens += length;
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_travels_once_and_no_batch_is_too_large(
            lengths in prop::collection::vec(0usize..600, 0..120),
            max_tokens in 1usize..5_000,
        ) {
            let batches = plan(&lengths, max_tokens);
            let seen: Vec<usize> = batches.iter().flatten().copied().collect();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let tokens: usize = batch.iter().map(|&index| lengths[index]).sum();
                prop_assert!(!batch.is_empty());
                prop_assert!(batch.len() == 1 || tokens <= max_tokens);
            }
        }
    }
}
