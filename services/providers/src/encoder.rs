//! BERT's encoder and mean pooling, for texts of any lengths at once: their tokens stand one after the other, without padding,
//! and only attention keeps them apart. Plain computation on the caller's thread.

use std::path::Path;

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_tensor::NdTensorView;
use rten_vecmath::{Gelu, Normalize, NormalizeOptions, Softmax, Sum, SumSquareSub};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::linear::{Linear, Scratch};

/// Weights above this are surely not a small sentence model.
const MAX_WEIGHT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Tokens whose widest layer is computed at once.
const TOKENS_AT_ONCE: usize = 96;

/// What `config.json` says of the model's form.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Config {
    hidden_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    pub(crate) max_position_embeddings: usize,
    layer_norm_eps: f32,
    hidden_act: String,
}

/// The weights of a model.
pub(crate) struct Encoder {
    width: usize,
    heads: usize,
    epsilon: f32,
    words: Vec<f32>,
    /// With the embedding of the one type of token there is.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Queries, keys and values side by side; queries are scaled already.
    attention: Linear,
    attended: Linear,
    attended_norm: Norm,
    widen: Linear,
    narrow: Linear,
    norm: Norm,
}

struct Norm {
    scale: Vec<f32>,
    bias: Vec<f32>,
}

impl Encoder {
    /// Reads `model.safetensors` of `folder`. Where `exact` is asked for, all is computed in 32-bit floats.
    pub(crate) fn load(folder: &Path, config: &Config, exact: bool) -> Result<Self, String> {
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(format!("{heads} heads do not share a width of {width}"));
        }
        if config.hidden_act != "gelu" {
            return Err(format!("the activation {} is not known", config.hidden_act));
        }
        let file = folder.join("model.safetensors");
        let size = std::fs::metadata(&file)
            .map_err(|error| error.to_string())?
            .len();
        if size > MAX_WEIGHT_BYTES {
            return Err(format!("{size} bytes are more than {MAX_WEIGHT_BYTES}"));
        }
        let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
        let weights = WeightFile { tensors, exact };

        let mut positions = weights.rows("embeddings.position_embeddings.weight", width)?;
        let types = weights.rows("embeddings.token_type_embeddings.weight", width)?;
        for position in positions.chunks_exact_mut(width) {
            add(position, &types[..width]);
        }
        if positions.len() != config.max_position_embeddings * width {
            return Err("the positions are not as many as config.json says".to_owned());
        }
        let layers: Result<Vec<Layer>, String> = (0..config.num_hidden_layers)
            .map(|number| weights.layer(number, width, heads))
            .collect();
        Ok(Self {
            width,
            heads,
            epsilon: config.layer_norm_eps,
            words: weights.rows("embeddings.word_embeddings.weight", width)?,
            positions,
            norm: weights.norm("embeddings.LayerNorm", width)?,
            layers: layers?,
        })
    }

    /// Length of a vector.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// One vector of unit length for each of `inputs`, in order. Memory grows with all their tokens, and with the square of
    /// the longest: the caller bounds both.
    pub(crate) fn embed(&self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, String> {
        let width = self.width;
        let tokens: usize = inputs.iter().map(|input| input.len()).sum();
        let mut hidden = Vec::with_capacity(tokens * width);
        for input in inputs {
            for (place, &token) in input.iter().enumerate() {
                let word = row(&self.words, token as usize, width)
                    .ok_or_else(|| format!("there is no token {token}"))?;
                let position = row(&self.positions, place, width)
                    .ok_or_else(|| format!("there is no position {place}"))?;
                hidden.extend(word.iter().zip(position).map(|(word, place)| word + place));
            }
        }
        self.normalise(&mut hidden, &self.norm);

        let mut room = Room::default();
        let mut attended = vec![0.0; tokens * width];
        for layer in &self.layers {
            self.attend(layer, inputs, &mut hidden, &mut attended, &mut room)?;
            for hidden in hidden.chunks_mut(TOKENS_AT_ONCE * width) {
                let tokens = hidden.len() / width;
                room.wide.resize(tokens * layer.widen.outputs(), 0.0);
                layer
                    .widen
                    .apply(hidden, &mut room.wide, &mut room.scratch)?;
                Gelu {}.map_mut(&mut room.wide);
                room.narrow.resize(tokens * width, 0.0);
                layer
                    .narrow
                    .apply(&room.wide, &mut room.narrow, &mut room.scratch)?;
                add(hidden, &room.narrow);
                self.normalise(hidden, &layer.norm);
            }
        }
        Ok(self.means(inputs, &hidden))
    }

    /// Attention, and what it adds to `hidden`.
    fn attend(
        &self,
        layer: &Layer,
        inputs: &[&[u32]],
        hidden: &mut [f32],
        attended: &mut [f32],
        room: &mut Room,
    ) -> Result<(), String> {
        let width = self.width;
        let tokens = hidden.len() / width;
        room.attention.resize(tokens * 3 * width, 0.0);
        layer
            .attention
            .apply(hidden, &mut room.attention, &mut room.scratch)?;
        let mut from = 0;
        for input in inputs {
            let to = from + input.len();
            let all = &room.attention[from * 3 * width..to * 3 * width];
            let out = &mut attended[from * width..to * width];
            self.attend_to_text(all, out, &mut room.scores, &mut room.head)?;
            from = to;
        }
        room.narrow.resize(tokens * width, 0.0);
        layer
            .attended
            .apply(attended, &mut room.narrow, &mut room.scratch)?;
        add(hidden, &room.narrow);
        self.normalise(hidden, &layer.attended_norm);
        Ok(())
    }

    /// The attention of one text's tokens to each other.
    fn attend_to_text(
        &self,
        all: &[f32],
        out: &mut [f32],
        scores: &mut Vec<f32>,
        of_head: &mut Vec<f32>,
    ) -> Result<(), String> {
        let (width, length) = (self.width, self.width / self.heads);
        let tokens = out.len() / width;
        if tokens == 0 {
            return Ok(());
        }
        let all = NdTensorView::from_data([tokens, 3 * width], all);
        let multiply = GemmExecutor::<f32>::new();
        scores.resize(tokens * tokens, 0.0);
        of_head.resize(tokens * length, 0.0);
        for head in 0..self.heads {
            let part = |which: usize| {
                let from = which * width + head * length;
                all.slice((0..tokens, from..from + length))
            };
            let (queries, keys, values) = (part(0), part(1), part(2));
            multiply
                .gemm(
                    scores,
                    GemmInputA::Unpacked(queries),
                    GemmInputB::Unpacked(keys.transposed()),
                    GemmOptions::default(),
                )
                .map_err(|error| error.to_string())?;
            for row in scores.chunks_exact_mut(tokens) {
                Softmax::new_mut(row).dispatch();
            }
            let scores = NdTensorView::from_data([tokens, tokens], &scores[..]);
            multiply
                .gemm(
                    of_head,
                    GemmInputA::Unpacked(scores),
                    GemmInputB::Unpacked(values),
                    GemmOptions::default(),
                )
                .map_err(|error| error.to_string())?;
            let rows = out.chunks_exact_mut(width);
            for (row, of_head) in rows.zip(of_head.chunks_exact(length)) {
                row[head * length..(head + 1) * length].copy_from_slice(of_head);
            }
        }
        Ok(())
    }

    fn normalise(&self, rows: &mut [f32], norm: &Norm) {
        #[expect(clippy::cast_precision_loss)]
        let width = self.width as f32;
        for row in rows.chunks_exact_mut(self.width) {
            let mean = Sum::new(row).dispatch() / width;
            let variance = SumSquareSub::new(row, mean).dispatch() / width;
            let options = NormalizeOptions {
                pre_scale_bias: mean,
                scale: 1.0 / (variance + self.epsilon).sqrt(),
                element_scale: Some(&norm.scale),
                element_bias: Some(&norm.bias),
                ..NormalizeOptions::default()
            };
            Normalize::new_mut(row, options).dispatch();
        }
    }

    /// The mean of each text's tokens, at unit length.
    fn means(&self, inputs: &[&[u32]], hidden: &[f32]) -> Vec<Vec<f32>> {
        let mut rows = hidden.chunks_exact(self.width);
        inputs
            .iter()
            .map(|input| {
                let mut sum = vec![0.0; self.width];
                for row in rows.by_ref().take(input.len()) {
                    add(&mut sum, row);
                }
                unit(&mut sum);
                sum
            })
            .collect()
    }
}

/// Brings a vector to unit length, unless it has none.
pub(crate) fn unit(vector: &mut [f32]) {
    let square: f32 = vector.iter().map(|number| number * number).sum();
    if square > 0.0 {
        let length = square.sqrt();
        for number in vector {
            *number /= length;
        }
    }
}

/// Room for what is computed on the way; kept from layer to layer.
#[derive(Default)]
struct Room {
    attention: Vec<f32>,
    scores: Vec<f32>,
    head: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
    scratch: Scratch,
}

fn add(to: &mut [f32], numbers: &[f32]) {
    for (to, number) in to.iter_mut().zip(numbers) {
        *to += number;
    }
}

fn row(rows: &[f32], number: usize, width: usize) -> Option<&[f32]> {
    rows.get(number.checked_mul(width)?..(number + 1).checked_mul(width)?)
}

/// The tensors of a file, by the names that sentence-transformers gives them.
struct WeightFile<'a> {
    tensors: SafeTensors<'a>,
    exact: bool,
}

impl WeightFile<'_> {
    fn floats(&self, name: &str) -> Result<Vec<f32>, String> {
        let tensor = self
            .tensors
            .tensor(name)
            .map_err(|error| format!("{name}: {error}"))?;
        if tensor.dtype() != safetensors::Dtype::F32 {
            return Err(format!("{name}: its numbers are not 32-bit floats"));
        }
        let (numbers, _) = tensor.data().as_chunks::<4>();
        Ok(numbers.iter().copied().map(f32::from_le_bytes).collect())
    }

    fn rows(&self, name: &str, width: usize) -> Result<Vec<f32>, String> {
        let rows = self.floats(name)?;
        if rows.is_empty() || !rows.len().is_multiple_of(width) {
            return Err(format!("{name}: its rows are not {width} long"));
        }
        Ok(rows)
    }

    fn exactly(&self, name: &str, length: usize) -> Result<Vec<f32>, String> {
        let numbers = self.floats(name)?;
        if numbers.len() != length {
            let found = numbers.len();
            return Err(format!("{name}: {found} numbers are not {length}"));
        }
        Ok(numbers)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, String> {
        Ok(Norm {
            scale: self.exactly(&format!("{name}.weight"), width)?,
            bias: self.exactly(&format!("{name}.bias"), width)?,
        })
    }

    /// A layer that reads rows of `inputs` numbers.
    fn linear(&self, name: &str, inputs: usize) -> Result<Linear, String> {
        let bias = self.floats(&format!("{name}.bias"))?;
        let weights = self.exactly(&format!("{name}.weight"), inputs * bias.len())?;
        Ok(Linear::new(&weights, bias, self.exact))
    }

    fn layer(&self, number: usize, width: usize, heads: usize) -> Result<Layer, String> {
        let part = |name: &str| format!("encoder.layer.{number}.{name}");
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for which in ["query", "key", "value"] {
            let name = part(&format!("attention.self.{which}"));
            let mut of_part = self.exactly(&format!("{name}.weight"), width * width)?;
            let mut bias = self.exactly(&format!("{name}.bias"), width)?;
            if which == "query" {
                // What scores are divided by is part of the weights.
                #[expect(clippy::cast_precision_loss)]
                let divisor = ((width / heads) as f32).sqrt();
                for number in of_part.iter_mut().chain(&mut bias) {
                    *number /= divisor;
                }
            }
            weights.extend(of_part);
            biases.extend(bias);
        }
        let widen = self.linear(&part("intermediate.dense"), width)?;
        let narrow = self.linear(&part("output.dense"), widen.outputs())?;
        if narrow.outputs() != width {
            return Err(format!("layer {number} is not {width} wide"));
        }
        Ok(Layer {
            attention: Linear::new(&weights, biases, self.exact),
            attended: self.linear(&part("attention.output.dense"), width)?,
            attended_norm: self.norm(&part("attention.output.LayerNorm"), width)?,
            widen,
            narrow,
            norm: self.norm(&part("output.LayerNorm"), width)?,
        })
    }
}
