//! Which texts travel together: sorted by length, so that padding a batch to its longest text wastes little work.

/// Groups the indexes of `lengths` into batches of at most `max_items` texts whose padded size (texts times the longest of
/// them) is at most `max_padded`; a text longer than that goes alone. Every index appears exactly once. Longest first: the
/// batch that needs the most memory is the first to find out whether there is enough.
pub(crate) fn plan(lengths: &[usize], max_items: usize, max_padded: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));

    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for index in order {
        let fits = batches.last().is_some_and(|batch| {
            batch.len() < max_items && (batch.len() + 1).saturating_mul(longest) <= max_padded
        });
        match batches.last_mut() {
            Some(batch) if fits => batch.push(index),
            _ => {
                longest = lengths[index];
                batches.push(vec![index]);
            }
        }
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
            max_items in 1usize..40,
            max_padded in 1usize..5_000,
        ) {
            let batches = plan(&lengths, max_items, max_padded);
            let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.iter().map(|&index| lengths[index]).max().unwrap_or(0);
                prop_assert!(!batch.is_empty() && batch.len() <= max_items);
                prop_assert!(batch.len() == 1 || batch.len() * longest <= max_padded);
            }
        }
    }
}
