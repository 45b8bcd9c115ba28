//! The quickstart's tokenizer: byte-level BPE trained on its own data, written as a Hugging Face tokenizer directory.

use std::path::Path;

use anyhow::Context;
use orpo_files::write_json;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// Begins every document; id 0.
pub const BOS_TOKEN: &str = "<s>";
/// Ends every document and every turn of the assistant; id 1.
pub const EOS_TOKEN: &str = "</s>";
/// Fills up batches; id 2.
pub const PAD_TOKEN: &str = "<pad>";
/// Begins a turn of the user; id 3.
pub const USER_TOKEN: &str = "<|user|>";
/// Begins a turn of the assistant; id 4.
pub const ASSISTANT_TOKEN: &str = "<|assistant|>";

/// All special tokens in the order of their ids.
const SPECIAL_TOKENS: [&str; 5] = [BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, USER_TOKEN, ASSISTANT_TOKEN];

/// A turn is its header and its text; the assistant's ends with EOS. The prompt with the generation header is therefore
/// a prefix of the prompt with the answer, in text and in tokens.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}\
    {% else %}{{ '<|user|>' + message['content'] }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// Trains a byte-level BPE tokenizer of at most `vocab_size` tokens on `texts`. The special tokens have the lowest ids,
/// all 256 bytes follow, so that any text can be written. No token is added on encoding: the chat template writes BOS.
///
/// # Errors
/// When the trainer refuses the input, for instance a vocabulary that is too small for the bytes.
pub fn train_tokenizer(texts: impl Iterator<Item = String>, vocab_size: usize) -> anyhow::Result<Tokenizer> {
    let smallest = SPECIAL_TOKENS.len() + ByteLevel::alphabet().len();
    anyhow::ensure!(
        vocab_size >= smallest,
        "a byte-level vocabulary needs at least {smallest} tokens, not {vocab_size}"
    );
    let byte_level = ByteLevel::default().add_prefix_space(false);
    let special = SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)).to_vec();
    let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();

    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level));
    tokenizer.with_decoder(Some(byte_level));
    let texts: Vec<String> = texts.collect();
    tokenizer
        .train(&mut trainer, texts.iter().map(String::as_str))
        .map_err(|error| anyhow::anyhow!("cannot train the tokenizer: {error}"))?;
    Ok(tokenizer)
}

/// Writes `tokenizer.json`, `tokenizer_config.json` with the chat template, and `special_tokens_map.json` into `dir`,
/// which is created if need be.
///
/// # Errors
/// When a file cannot be written; the message names it.
pub fn write_tokenizer(tokenizer: &Tokenizer, dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    let path = dir.join("tokenizer.json");
    tokenizer.save(&path, true).map_err(|error| anyhow::anyhow!("cannot write `{}`: {error}", path.display()))?;

    let added = |token: &str| {
        json!({"content": token, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
               "special": true})
    };
    let decoder: serde_json::Map<String, Value> =
        SPECIAL_TOKENS.iter().enumerate().map(|(id, token)| (id.to_string(), added(token))).collect();
    let mut special_tokens = json!({
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "pad_token": PAD_TOKEN,
        "additional_special_tokens": [USER_TOKEN, ASSISTANT_TOKEN],
    });
    write_json(&dir.join("special_tokens_map.json"), &special_tokens)?;

    let config = special_tokens.as_object_mut().expect("it was built as an object");
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("added_tokens_decoder".into(), decoder.into());
    config.insert("chat_template".into(), CHAT_TEMPLATE.into());
    write_json(&dir.join("tokenizer_config.json"), &special_tokens)?;
    // The trainer passes this on. A model this small is at its best where it is surest, so clients that read the file,
    // the playground among them, start from greedy replies.
    Ok(write_json(&dir.join("generation_config.json"), &json!({ "temperature": 0.0 }))?)
}

#[cfg(test)]
mod tests {
    use super::super::data::{self, CorpusDocument};
    use super::*;
    use orpo_chat::{ChatTokenizer, Message};

    const VOCAB_SIZE: usize = 1024;

    fn trained(dataset: &data::Dataset) -> (tempfile::TempDir, ChatTokenizer) {
        let dir = tempfile::tempdir().unwrap();
        write_tokenizer(&train_tokenizer(dataset.training_texts(), VOCAB_SIZE).unwrap(), dir.path()).unwrap();
        let tokenizer = ChatTokenizer::from_dir(dir.path()).unwrap();
        (dir, tokenizer)
    }

    #[test]
    fn special_tokens_have_the_lowest_ids() {
        let (_dir, tokenizer) = trained(&data::generate(1));
        let ids = SPECIAL_TOKENS.map(|token| tokenizer.tokenizer().token_to_id(token));
        assert_eq!(ids, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(tokenizer.tokenizer().get_vocab_size(true), VOCAB_SIZE);
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(0), &[1][..]));
        assert_eq!(tokenizer.special_tokens().pad_token.as_deref(), Some(PAD_TOKEN));
    }

    #[test]
    fn all_text_round_trips_and_is_short() {
        let dataset = data::generate(2);
        let (_dir, tokenizer) = trained(&dataset);
        let mut lengths = Vec::new();
        for document in &dataset.base_corpus {
            let text = match document {
                CorpusDocument::Messages(messages) => tokenizer.render(messages, false).unwrap(),
                CorpusDocument::Text(text) => text.clone(),
            };
            let ids = tokenizer.encode(&text).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
            lengths.push(ids.len());
        }
        for pair in dataset.train.iter().chain(&dataset.validation).chain(&dataset.test) {
            let prompt = tokenizer.encode_prompt(&pair.prompt).unwrap();
            for answer in [&pair.chosen, &pair.rejected] {
                let text = tokenizer.render(&[&pair.prompt[..], answer].concat(), false).unwrap();
                let ids = tokenizer.encode(&text).unwrap();
                assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
                assert!(ids.starts_with(&prompt), "{text}");
                lengths.push(ids.len());
            }
        }
        let mean = lengths.iter().sum::<usize>() / lengths.len();
        let longest = lengths.iter().max().unwrap();
        assert!((40..=60).contains(&mean) && *longest <= 128, "mean {mean}, longest {longest}");
    }

    #[test]
    fn text_outside_the_vocabulary_round_trips() {
        let (_dir, tokenizer) = trained(&data::generate(3));
        for text in ["Größe, 大きさ!", "\t\u{0}<|user|> 🦀\r\n"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap(), false).unwrap(), text);
        }
    }

    #[test]
    fn the_template_begins_with_bos_and_ends_an_answer_with_eos() {
        let (_dir, tokenizer) = trained(&data::generate(4));
        let messages = [Message::user("Hi."), Message::assistant("Hello."), Message::user("And?")];
        assert_eq!(
            tokenizer.render(&messages, true).unwrap(),
            "<s><|user|>Hi.<|assistant|>Hello.</s><|user|>And?<|assistant|>"
        );
        assert_eq!(tokenizer.render(&messages[..2], false).unwrap(), "<s><|user|>Hi.<|assistant|>Hello.</s>");
        let ids = tokenizer.encode_prompt(&messages).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == 0).count(), 1, "one BOS");
    }

    #[test]
    fn training_is_deterministic() {
        let dataset = data::generate(5);
        let train = || train_tokenizer(dataset.training_texts(), VOCAB_SIZE).unwrap().to_string(true).unwrap();
        assert_eq!(train(), train());
    }

    #[test]
    fn a_vocabulary_without_room_for_the_bytes_is_refused() {
        let error = train_tokenizer(std::iter::empty(), 256).unwrap_err().to_string();
        assert!(error.contains("at least 261"), "{error}");
    }
}
