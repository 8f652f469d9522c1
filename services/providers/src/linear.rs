//! A layer of weights: each row of its input times a matrix, plus a bias.

use rten_gemm::{BiasVector, GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_simd::{Isa, SimdOp};
use rten_tensor::NdTensorView;

#[cfg(target_arch = "x86_64")]
use crate::kernel::{LARGEST_WEIGHT, Multiplier, Packed, largest_input};

/// Rows that are worked on together: what is read and written for them stays near the processor.
const ROWS: usize = 96;

/// Adding this to a number below 2^22 and taking it as bits leaves the number, rounded, in the lowest ones.
const ROUNDING: f32 = 12_582_912.0;

/// A layer of weights, packed for this machine's processor.
pub(crate) struct Linear {
    inputs: usize,
    outputs: usize,
    bias: Vec<f32>,
    weights: Weights,
}

enum Weights {
    /// 32-bit floats.
    Floats(PackedBMatrix<f32>),
    /// 16-bit whole numbers, and what 1 in each column stands for.
    #[cfg(target_arch = "x86_64")]
    Short {
        multiplier: Multiplier,
        packed: Packed,
        scales: Vec<f32>,
    },
}

/// Room for what is computed on the way; kept from layer to layer.
#[derive(Default)]
pub(crate) struct Scratch {
    short: Vec<i16>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Linear {
    /// A layer of `weights`, a row of inputs for each of the outputs, as many as there are in `bias`. Where `exact` is
    /// asked for, or the processor does not gain by it, they stay floats.
    pub(crate) fn new(weights: &[f32], bias: Vec<f32>, exact: bool) -> Self {
        let outputs = bias.len();
        let inputs = weights.len() / outputs.max(1);
        let mut columns = vec![0.0; inputs * outputs];
        for (output, row) in weights.chunks_exact(inputs.max(1)).enumerate() {
            for (input, weight) in row.iter().enumerate() {
                columns[input * outputs + output] = *weight;
            }
        }
        #[cfg(target_arch = "x86_64")]
        let short = (!exact).then(|| short(&columns, inputs, outputs)).flatten();
        #[cfg(not(target_arch = "x86_64"))]
        let (short, _) = (None, exact);
        let weights = short.unwrap_or_else(|| {
            let matrix = NdTensorView::from_data([inputs, outputs], &columns[..]);
            Weights::Floats(GemmExecutor::<f32>::new().prepack_b(matrix))
        });
        Self {
            inputs,
            outputs,
            bias,
            weights,
        }
    }

    /// Length of a row that comes out.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The rows of `input` through the layer, written to `output`, which has as many.
    pub(crate) fn apply(
        &self,
        input: &[f32],
        output: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), String> {
        let inputs = input.chunks(ROWS * self.inputs);
        let outputs = output.chunks_mut(ROWS * self.outputs);
        for (input, output) in inputs.zip(outputs) {
            match &self.weights {
                Weights::Floats(packed) => self.apply_floats(packed, input, output)?,
                #[cfg(target_arch = "x86_64")]
                Weights::Short {
                    multiplier,
                    packed,
                    scales,
                } => {
                    let rows = input.len() / self.inputs;
                    scratch.short.resize(input.len(), 0);
                    scratch.scales.resize(rows, 0.0);
                    scratch.sums.resize(rows * self.outputs, 0);
                    Shorten {
                        rows: input,
                        length: self.inputs,
                        largest: f32::from(largest_input(self.inputs)),
                        short: &mut scratch.short,
                        scales: &mut scratch.scales,
                    }
                    .dispatch();
                    multiplier.multiply(&scratch.short, packed, &mut scratch.sums);
                    Lengthen {
                        sums: &scratch.sums,
                        rows: &scratch.scales,
                        columns: scales,
                        bias: &self.bias,
                        output,
                    }
                    .dispatch();
                }
            }
        }
        Ok(())
    }

    fn apply_floats(
        &self,
        packed: &PackedBMatrix<f32>,
        input: &[f32],
        output: &mut [f32],
    ) -> Result<(), String> {
        let rows = input.len() / self.inputs;
        let input = NdTensorView::from_data([rows, self.inputs], input);
        GemmExecutor::<f32>::new()
            .gemm(
                output,
                GemmInputA::Unpacked(input),
                GemmInputB::Packed(packed),
                GemmOptions {
                    bias: Some(BiasVector::Row(&self.bias)),
                    ..GemmOptions::default()
                },
            )
            .map_err(|error| error.to_string())
    }
}

/// Each column in steps of its own, so that its largest weight is the largest number there is.
#[cfg(target_arch = "x86_64")]
fn short(columns: &[f32], inputs: usize, outputs: usize) -> Option<Weights> {
    let multiplier = Multiplier::new()?;
    let mut scales = vec![0.0_f32; outputs];
    for row in columns.chunks_exact(outputs) {
        for (scale, weight) in scales.iter_mut().zip(row) {
            *scale = scale.max(weight.abs());
        }
    }
    for scale in &mut scales {
        *scale = scale.max(f32::MIN_POSITIVE) / f32::from(LARGEST_WEIGHT);
    }
    let rounded: Vec<i16> = columns
        .chunks_exact(outputs)
        .flat_map(|row| row.iter().zip(&scales))
        .map(|(weight, scale)| rounded(weight / scale))
        .collect();
    Some(Weights::Short {
        multiplier,
        packed: Packed::pack(&rounded, inputs, outputs)?,
        scales,
    })
}

/// The nearest whole number; the number is below 2^15.
#[expect(clippy::cast_possible_truncation)]
#[inline(always)]
fn rounded(number: f32) -> i16 {
    (number + ROUNDING).to_bits() as i16
}

/// Makes 16-bit numbers of rows of floats, each row in steps of its own. Plain loops, compiled for each kind of processor.
struct Shorten<'a> {
    rows: &'a [f32],
    length: usize,
    largest: f32,
    short: &'a mut [i16],
    scales: &'a mut [f32],
}

impl SimdOp for Shorten<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let rows = self.rows.chunks_exact(self.length);
        let short = self.short.chunks_exact_mut(self.length);
        for ((row, short), scale) in rows.zip(short).zip(self.scales) {
            // Sixteen at once, which one running maximum would forbid.
            let mut largest = [0.0_f32; 16];
            let (blocks, rest) = row.as_chunks::<16>();
            for block in blocks {
                for (largest, number) in largest.iter_mut().zip(block) {
                    let size = number.abs();
                    *largest = if size > *largest { size } else { *largest };
                }
            }
            let largest = largest
                .into_iter()
                .chain(rest.iter().map(|number| number.abs()));
            let largest = largest.fold(f32::MIN_POSITIVE, f32::max);
            let steps = self.largest / largest;
            for (short, number) in short.iter_mut().zip(row) {
                *short = rounded(number * steps);
            }
            *scale = largest / self.largest;
        }
    }
}

/// Makes floats of the sums again, and adds the bias.
struct Lengthen<'a> {
    sums: &'a [i32],
    rows: &'a [f32],
    columns: &'a [f32],
    bias: &'a [f32],
    output: &'a mut [f32],
}

impl SimdOp for Lengthen<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::cast_precision_loss)]
    fn eval<I: Isa>(self, _: I) {
        let length = self.bias.len();
        let columns = &self.columns[..length];
        let sums = self.sums.chunks_exact(length);
        let output = self.output.chunks_exact_mut(length);
        for ((sums, output), row) in sums.zip(output).zip(self.rows) {
            for column in 0..length {
                output[column] = sums[column] as f32 * (row * columns[column]) + self.bias[column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn short_weights_give_what_floats_give_within_a_five_thousandth_of_what_there_could_be() {
        let (inputs, outputs, rows) = (384, 48, 2 * ROWS + 5);
        let wave = |step: f32| {
            move |index: usize| {
                #[expect(clippy::cast_precision_loss)]
                let angle = index as f32 * step;
                angle.sin()
            }
        };
        let weights: Vec<f32> = (0..inputs * outputs).map(wave(0.37)).collect();
        let bias: Vec<f32> = (0..outputs).map(wave(1.0)).collect();
        let input: Vec<f32> = (0..rows * inputs).map(wave(0.11)).collect();
        let [exact, short] = [true, false].map(|exact| {
            let layer = Linear::new(&weights, bias.clone(), exact);
            let mut output = vec![0.0; rows * layer.outputs()];
            layer
                .apply(&input, &mut output, &mut Scratch::default())
                .unwrap();
            output
        });
        // Rows and columns as long as these could give half as much as they have numbers.
        #[expect(clippy::cast_precision_loss)]
        let allowed = inputs as f32 / 2.0 / 5_000.0;
        for (exact, short) in exact.iter().zip(&short) {
            assert!((exact - short).abs() < allowed, "{exact} {short}");
        }
        // By hand, the first row with the first output.
        let by_hand: f32 = (0..inputs).map(|at| input[at] * weights[at]).sum();
        assert!((exact[0] - by_hand - bias[0]).abs() < 1e-3);
    }
}
