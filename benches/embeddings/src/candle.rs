//! candle's BERT, used as well as it can be: texts of like length in batches, as many at once as there are threads.

use std::path::Path;

use anyhow::{Result, anyhow};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokenizers::Tokenizer;

/// Tokens in a batch, padding counted: more cost memory for nothing.
const BATCH_TOKENS: usize = 2_048;

pub(crate) struct Candle {
    model: BertModel,
    tokenizer: Tokenizer,
    pool: ThreadPool,
}

pub(crate) fn tokenizer(folder: &Path) -> Result<Tokenizer> {
    let mut tokenizer =
        Tokenizer::from_file(folder.join("tokenizer.json")).map_err(|error| anyhow!(error))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| anyhow!(error))?;
    Ok(tokenizer)
}

/// The tokens of a text, framed.
pub(crate) fn tokens(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode_fast(text, true)
        .map_err(|error| anyhow!(error))?;
    Ok(encoding.get_ids().to_vec())
}

impl Candle {
    pub(crate) fn load(folder: &Path, threads: usize) -> Result<Self> {
        let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let weights = std::fs::read(folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        Ok(Self {
            model: BertModel::load(weights, &config)?,
            tokenizer: tokenizer(folder)?,
            pool: ThreadPoolBuilder::new().num_threads(threads).build()?,
        })
    }

    /// One vector of unit length for each text.
    pub(crate) fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let inputs: Result<Vec<Vec<u32>>> = texts
            .iter()
            .map(|text| tokens(&self.tokenizer, text))
            .collect();
        let inputs = inputs?;
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(inputs[index].len()));
        let longest = inputs.iter().map(Vec::len).max().unwrap_or(1);
        let batches: Vec<&[usize]> = order.chunks((BATCH_TOKENS / longest).max(1)).collect();
        let computed: Result<Vec<Vec<Vec<f32>>>> = self.pool.install(|| {
            batches
                .par_iter()
                .map(|batch| {
                    let rows: Vec<&[u32]> = batch.iter().map(|&index| &inputs[index][..]).collect();
                    Ok(self.forward(&rows)?)
                })
                .collect()
        });
        let mut vectors = vec![Vec::new(); texts.len()];
        for (index, vector) in order.iter().zip(computed?.into_iter().flatten()) {
            vectors[*index] = vector;
        }
        Ok(vectors)
    }

    fn forward(&self, inputs: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let rows = inputs.len();
        let width = inputs.iter().map(|input| input.len()).max().unwrap_or(0);
        let (mut ids, mut mask, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for input in inputs {
            let padding = width - input.len();
            ids.extend_from_slice(input);
            ids.extend(std::iter::repeat_n(0, padding));
            mask.extend(std::iter::repeat_n(1_u32, input.len()));
            mask.extend(std::iter::repeat_n(0_u32, padding));
            #[expect(clippy::cast_precision_loss)]
            let weight = 1.0 / input.len().max(1) as f32;
            weights.extend(std::iter::repeat_n(weight, input.len()));
            weights.extend(std::iter::repeat_n(0.0, padding));
        }
        let device = &Device::Cpu;
        let ids = Tensor::from_vec(ids, (rows, width), device)?;
        let mask = Tensor::from_vec(mask, (rows, width), device)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let weights = Tensor::from_vec(weights, (rows, 1, width), device)?;
        let means = weights.matmul(&hidden)?.squeeze(1)?;
        let lengths = means.sqr()?.sum_keepdim(1)?.sqrt()?;
        means.broadcast_div(&lengths)?.to_vec2()
    }
}
