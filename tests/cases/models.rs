//! Checkpoints as other programs write them: the trainer and the server read the same, or refuse by name.
//!
//! Log-probabilities are those of transformers 5.24 on the same ids, in f32:
//! `log_softmax(AutoModelForCausalLM.from_pretrained(d, dtype=float32)(ids).logits)`, summed over the ids after the first.

use serde_json::{Value, json};

use crate::setting::{Case, Model, Tensor, names};

/// They end in the EOS, so that the trainer appends none.
const IDS: [u64; 10] = [0, 60, 61, 62, 70, 80, 90, 100, 101, 1];
/// Of the golden Llama checkpoint as it is.
const PLAIN: f64 = -61.798_278;
/// The same with `rope_theta` 500000.
const OTHER_THETA: f64 = -62.032_490;

const FOLDER: &str = "20-checkpoints-of-other-programs";

/// The sum as `orpo train score` has it, or its refusal.
fn trained(case: &Case, model: &Model) -> Result<f64, String> {
    let row = json!({"prompt_input_ids": IDS[..1], "chosen_input_ids": IDS[1..], "rejected_input_ids": IDS[1..4]});
    case.write("ids.jsonl", format!("{row}\n"));
    let said = case.orpo(&["train", "score", "--model", model.dir.to_str().unwrap(), "--data", "ids.jsonl"]);
    match said.code {
        Some(0) => {
            let json: Value = serde_json::from_str(&said.stdout).unwrap();
            // A mean over the response's tokens.
            Ok(json["logps/chosen"].as_f64().unwrap_or_else(|| panic!("{json}")) * (IDS.len() - 1) as f64)
        }
        code => {
            assert_eq!(code, Some(2), "{}", said.stderr);
            Err(said.stderr)
        }
    }
}

/// Both programs compute `expected`.
fn assert_computed(case: &Case, model: &Model, expected: f64) {
    let close = |sum: f64| (sum - expected).abs() < 1e-3;
    let trainer = trained(case, model).unwrap_or_else(|error| panic!("the trainer refuses: {error}"));
    assert!(close(trainer), "the trainer computes {trainer}, transformers {expected}");
    let server = case.serve(&model.dir, &[]);
    let served = server.log_probability(&IDS);
    assert!(close(served), "the server computes {served}, transformers {expected}");
    server.chat(&json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}));
}

/// Both programs refuse, with these words.
fn assert_refused(case: &Case, model: &Model, words: &[&str]) {
    names(&trained(case, model).expect_err("the trainer takes it"), words);
    match case.try_serve(&model.dir, &[]) {
        Ok(_) => panic!("the server takes it"),
        Err(log) => names(&log, words),
    }
}

#[test]
fn of_two_rope_thetas_that_of_rope_parameters_counts() {
    let Some(case) = Case::open(FOLDER) else { return };
    let model = case.llama("rope_conflict");
    model.edit("config.json", |config| {
        config.insert("rope_theta".into(), json!(10_000.0));
        config.insert("rope_parameters".into(), json!({"rope_type": "default", "rope_theta": 500_000.0}));
    });
    assert_computed(&case, &model, OTHER_THETA);
}

#[test]
fn a_head_in_the_file_is_used_although_the_config_says_tied() {
    let Some(case) = Case::open(FOLDER) else { return };
    let model = case.llama("tied_with_other_head");
    model.edit("config.json", |config| drop(config.insert("tie_word_embeddings".into(), true.into())));
    assert_computed(&case, &model, PLAIN);
}

#[test]
fn names_without_their_prefix_and_configs_without_architectures_are_read() {
    let Some(case) = Case::open(FOLDER) else { return };
    assert_computed(&case, &case.llama("plain"), PLAIN);
    let model = case.llama("no_model_prefix");
    model.weights(|tensor| {
        let name = tensor.name.strip_prefix("model.").unwrap_or(&tensor.name).to_owned();
        Some(Tensor { name, ..tensor })
    });
    assert_computed(&case, &model, PLAIN);
    for architectures in [None, Some(Value::Null)] {
        let model = case.llama("no_architectures");
        model.edit("config.json", |config| {
            config.remove("architectures");
            config.extend(architectures.map(|value| ("architectures".to_owned(), value)));
        });
        assert_computed(&case, &model, PLAIN);
    }
}

#[test]
fn an_end_token_beyond_the_vocabulary_is_passed_over() {
    let Some(case) = Case::open(FOLDER) else { return };
    let model = case.llama("eos_out_of_vocab");
    model.edit("generation_config.json", |config| drop(config.insert("eos_token_id".into(), json!([1, 99_999]))));
    assert_computed(&case, &model, PLAIN);
}

#[test]
fn weights_that_cannot_be_used_are_refused_for_what_they_are() {
    let Some(case) = Case::open(FOLDER) else { return };
    let model = case.llama("untied_without_head");
    model.edit("config.json", |config| drop(config.insert("tie_word_embeddings".into(), false.into())));
    model.weights(|tensor| Some(tensor).filter(|tensor| tensor.name != "lm_head.weight"));
    assert_refused(&case, &model, &["lm_head.weight"]);

    let model = case.llama("lfs_pointer");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 642408\n";
    std::fs::write(model.dir.join("model.safetensors"), pointer).unwrap();
    assert_refused(&case, &model, &["model.safetensors", "LFS"]);

    let model = case.llama("fp8");
    model.weights(|tensor| {
        let bytes = tensor.bytes.chunks(4).map(|_| 0x38).collect();
        Some(Tensor { dtype: "F8_E4M3".into(), bytes, ..tensor })
    });
    assert_refused(&case, &model, &["F8_E4M3"]);

    // Wider than needed: read, or refused by name.
    let model = case.llama("f64");
    model.weights(|tensor| {
        let wide = |four: &[u8]| f64::from(f32::from_le_bytes(four.try_into().unwrap())).to_le_bytes();
        let bytes = tensor.bytes.chunks(4).flat_map(wide).collect();
        Some(Tensor { dtype: "F64".into(), bytes, ..tensor })
    });
    match trained(&case, &model) {
        Ok(_) => assert_computed(&case, &model, PLAIN),
        Err(_) => assert_refused(&case, &model, &["F64"]),
    }
}

#[test]
fn templates_by_name_are_found_in_either_place() {
    let Some(case) = Case::open("48-tool-use-template") else { return };
    let request = case.json("req.json");
    let of = |model: &Model| {
        let config = std::fs::read_to_string(model.dir.join("tokenizer_config.json")).unwrap();
        serde_json::from_str::<Value>(&config).unwrap()["chat_template"].as_str().unwrap().to_owned()
    };
    let named = case.llama("template_named_list");
    let default = of(&named);
    let tool_use = format!("{{% for t in tools %}}{{{{ t | tojson }}}}{{% endfor %}}{default}");
    let list = json!([{"name": "default", "template": default}, {"name": "tool_use", "template": tool_use}]);
    named.edit("tokenizer_config.json", |config| drop(config.insert("chat_template".into(), list)));
    let additional = case.llama("template_additional");
    additional.edit("tokenizer_config.json", |config| drop(config.remove("chat_template")));
    case.write("template_additional/chat_template.jinja", &default);
    case.write("template_additional/additional_chat_templates/tool_use.jinja", &tool_use);
    for model in [named, additional] {
        let server = case.serve(&model.dir, &[]);
        server.chat(&request);
        let text = |chat: &Value| server.detokenize(&server.tokenize(chat));
        let plain = text(&json!({"messages": request["messages"]}));
        let with_tools = text(&json!({"messages": request["messages"], "tools": request["tools"]}));
        assert!(!plain.contains("function"), "{plain}");
        names(&with_tools, &[r#"{"type": "function", "function": {"name": "f""#]);
    }
}

#[test]
fn a_token_beyond_the_embedding_is_known_before_it_is_met() {
    let Some(case) = Case::open("49-token-beyond-embedding") else { return };
    let model = case.llama("tokenizer_larger");
    let token = json!({"id": 512, "content": "<|extra|>", "special": true, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false});
    model.edit("tokenizer.json", |tokenizer| tokenizer["added_tokens"].as_array_mut().unwrap().push(token));
    match case.try_serve(&model.dir, &[]) {
        Ok(server) => names(&server.refused(&case.json("req.json")), &["<|extra|>"]),
        Err(log) => names(&log, &["512"]),
    }
    case.write("r.toml", case.text("r.toml").replace("@CASES@/work/ckpt/tokenizer_larger", "tokenizer_larger"));
    names(&case.refused("r.toml", &[]), &["512"]);
}

#[test]
fn a_score_that_is_not_a_number_is_an_error() {
    let Some(case) = Case::open("61-score-of-nan") else { return };
    let model = case.llama("nan_weight");
    model.weights(|mut tensor| {
        if tensor.name == "model.norm.weight" {
            tensor.bytes[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Some(tensor)
    });
    names(&trained(&case, &model).expect_err("nothing can be scored"), &["not finite"]);
}
