//! Products of matrices in 16-bit whole numbers, for processors that multiply sixteen of them at once (AVX2).
//!
//! Two neighbours of a row are multiplied with two neighbours of a column and added in 32 bits by one instruction, so this does
//! twice what 32-bit floats do in the same time, and half the bytes are read. Numbers of eight bits would be a third faster
//! again, and lose what this keeps: with rows of 12 bits and columns of 10 a sentence's vector is as good as with floats.

use pulp::NullaryFnOnce;
use pulp::x86::V3;
use std::arch::x86_64::__m256i;

/// Rows that are multiplied at once: with two registers of sums each they just fit the processor's sixteen.
const ROWS: usize = 6;

/// Columns that are multiplied at once: two registers of eight sums.
const COLUMNS: usize = 16;

/// The most that a column may hold, so that it fits into ten bits.
pub(crate) const LARGEST_WEIGHT: i16 = 511;

/// The most that a row may hold where sums have `depth` parts: no sum leaves its 32 bits.
pub(crate) fn largest_input(depth: usize) -> i16 {
    let fits = i32::MAX as usize / (depth.max(1) * LARGEST_WEIGHT as usize);
    i16::try_from(fits).unwrap_or(i16::MAX).min(4_095)
}

/// What can multiply: proof that the processor has the instructions.
#[derive(Clone, Copy)]
pub(crate) struct Multiplier(V3);

/// A matrix in the order that it is read in: panels of sixteen columns, in each the pairs of rows one after the other.
pub(crate) struct Packed {
    depth: usize,
    columns: usize,
    /// For each panel and pair: columns 0 to 7, then 8 to 15, each column's two numbers side by side.
    pairs: Vec<[pulp::i16x16; 2]>,
}

impl Packed {
    /// Packs `depth` rows of `columns` numbers, given row by row; none where they fill no panels.
    pub(crate) fn pack(rows: &[i16], depth: usize, columns: usize) -> Option<Self> {
        let fits = depth.is_multiple_of(2) && columns.is_multiple_of(COLUMNS);
        if !fits || rows.len() != depth * columns {
            return None;
        }
        let mut pairs = Vec::with_capacity(rows.len() / (2 * COLUMNS));
        for panel in (0..columns).step_by(COLUMNS) {
            for row in (0..depth).step_by(2) {
                pairs.push([0, 1].map(|half| {
                    let mut both = [0; COLUMNS];
                    for (lane, number) in both.iter_mut().enumerate() {
                        let column = panel + half * COLUMNS / 2 + lane / 2;
                        *number = rows[(row + lane % 2) * columns + column];
                    }
                    pulp::cast(both)
                }));
            }
        }
        Some(Self {
            depth,
            columns,
            pairs,
        })
    }
}

impl Multiplier {
    /// Where the processor has what it takes.
    pub(crate) fn new() -> Option<Self> {
        V3::try_new().map(Self)
    }

    /// Multiplies `rows`, each as long as `matrix` is deep, with it; `sums` gets as many rows of its columns.
    pub(crate) fn multiply(self, rows: &[i16], matrix: &Packed, sums: &mut [i32]) {
        self.0.vectorize(Product {
            simd: self.0,
            rows,
            matrix,
            sums,
        });
    }
}

struct Product<'a> {
    simd: V3,
    rows: &'a [i16],
    matrix: &'a Packed,
    sums: &'a mut [i32],
}

impl NullaryFnOnce for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self {
            simd,
            rows,
            matrix,
            sums,
        } = self;
        let (depth, columns) = (matrix.depth, matrix.columns);
        let panels = matrix.pairs.chunks_exact((depth / 2).max(1));
        for (panel, pairs) in panels.enumerate() {
            let offset = panel * COLUMNS;
            let mut blocks = rows.chunks_exact(ROWS * depth);
            let mut sums_of_blocks = sums.chunks_exact_mut(ROWS * columns);
            for (block, sums) in blocks.by_ref().zip(sums_of_blocks.by_ref()) {
                tile::<ROWS>(simd, block, pairs, &mut sums[offset..], columns);
            }
            let left = sums_of_blocks.into_remainder().chunks_exact_mut(columns);
            for (row, sums) in blocks.remainder().chunks_exact(depth).zip(left) {
                tile::<1>(simd, row, pairs, &mut sums[offset..], columns);
            }
        }
    }
}

/// `N` rows with one panel of columns.
#[inline(always)]
// By number, so that all is unrolled into registers.
#[allow(clippy::needless_range_loop)]
fn tile<const N: usize>(
    simd: V3,
    rows: &[i16],
    pairs: &[[pulp::i16x16; 2]],
    sums: &mut [i32],
    columns: usize,
) {
    let mut of_tile: [[__m256i; 2]; N] = [[simd.avx._mm256_setzero_si256(); 2]; N];
    let mut of_rows: [&[[i16; 2]]; N] = [&[]; N];
    let depth = pairs.len();
    for row in 0..N {
        of_rows[row] = &rows[row * 2 * depth..(row + 1) * 2 * depth]
            .as_chunks::<2>()
            .0[..depth];
    }
    for pair in 0..depth {
        let left: __m256i = pulp::cast(pairs[pair][0]);
        let right: __m256i = pulp::cast(pairs[pair][1]);
        for row in 0..N {
            let both: i32 = pulp::cast(of_rows[row][pair]);
            let both = simd.avx._mm256_set1_epi32(both);
            let of_left = simd.avx2._mm256_madd_epi16(both, left);
            let of_right = simd.avx2._mm256_madd_epi16(both, right);
            of_tile[row][0] = simd.avx2._mm256_add_epi32(of_tile[row][0], of_left);
            of_tile[row][1] = simd.avx2._mm256_add_epi32(of_tile[row][1], of_right);
        }
    }
    for row in 0..N {
        let of_row: [i32; COLUMNS] = pulp::cast(of_tile[row]);
        sums[row * columns..row * columns + COLUMNS].copy_from_slice(&of_row);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Rows and columns of the largest numbers among them, so that a sum that left its bits would show.
        #[test]
        fn every_sum_is_that_of_its_row_and_column(
            rows in 0usize..20,
            pairs in 1usize..40,
            panels in 1usize..4,
            seed in any::<u64>(),
        ) {
            let Some(multiplier) = Multiplier::new() else {
                return Ok(());
            };
            let (depth, columns) = (2 * pairs, COLUMNS * panels);
            let largest = i64::from(largest_input(depth));
            let mut state = seed;
            let mut number = |largest: i64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let drawn = i64::try_from(state >> 33).unwrap() % (2 * largest + 1) - largest;
                let extreme = state.is_multiple_of(3);
                i16::try_from(if extreme { largest } else { drawn }).unwrap()
            };
            let left: Vec<i16> = (0..rows * depth).map(|_| number(largest)).collect();
            let right: Vec<i16> = (0..depth * columns)
                .map(|_| number(LARGEST_WEIGHT.into()))
                .collect();
            let packed = Packed::pack(&right, depth, columns).unwrap();
            let mut sums = vec![0; rows * columns];
            multiplier.multiply(&left, &packed, &mut sums);
            for (index, sum) in sums.into_iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let expected: i64 = (0..depth)
                    .map(|at| {
                        i64::from(left[row * depth + at]) * i64::from(right[at * columns + column])
                    })
                    .sum();
                prop_assert_eq!(i64::from(sum), expected);
            }
        }
    }

    #[test]
    fn the_deepest_sum_of_the_largest_numbers_fits() {
        for depth in [2, 384, 1_536, 4_096] {
            let largest = i64::from(largest_input(depth)) * i64::from(LARGEST_WEIGHT);
            assert!(largest * i64::try_from(depth).unwrap() <= i64::from(i32::MAX));
        }
        assert!(Packed::pack(&[0; 10], 1, 10).is_none());
    }
}
