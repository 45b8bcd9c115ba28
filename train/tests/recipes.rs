//! The recipes in `train/recipes`: every one is valid, and says how it is used.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use orpo_chat::{ChatTokenizer, Message};
use orpo_train::data::{Selection, Text, read_preferences};
use orpo_train::recipe::Recipe;
use serde_json::{Value, json};
use support::write_tokenizer;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

fn recipes() -> Vec<PathBuf> {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let recipes: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    assert!(recipes.len() >= 11, "{recipes:?}");
    recipes
}

#[test]
fn every_recipe_is_valid_and_names_its_command_and_source() {
    let help = Command::new(env!("CARGO_BIN_EXE_orpo-train")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for path in recipes() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let recipe = Recipe::load(&path, &[]).unwrap();
        if let Some(template) = &recipe.data.chat_template {
            assert!(template.exists(), "{name}: {}", template.display());
        }
        let text = fs::read_to_string(&path).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        let command: Vec<&str> = first.trim_start_matches("# ").split(' ').collect();
        let ["orpo", "train", command, file] = command[..] else { panic!("{name} begins with `{first}`") };
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))), "{name}: {command}");
        assert_eq!(file, format!("train/recipes/{name}"));
        assert!(rest.contains("# Numbers: "), "{name} does not say where its numbers come from");
        // What its comments offer to set can be set.
        let overrides =
            rest.lines().filter(|line| line.starts_with("#   --set ")).flat_map(|line| line[4..].split("--set "));
        let overrides: Vec<String> =
            overrides.map(|entry| entry.trim().to_string()).filter(|e| !e.is_empty()).collect();
        Recipe::load(&path, &overrides).unwrap();
    }
}

#[test]
fn numbers_of_the_paper() {
    let load = |name: &str| Recipe::load(&folder().join(name), &[]).unwrap();
    for (name, beta, max_length) in [
        ("opt-125m-hh.toml", 1.0, 1024),
        ("opt-350m-hh.toml", 1.0, 1024),
        ("opt-1.3b-hh.toml", 1.0, 1024),
        ("phi-2-ultrafeedback.toml", 0.25, 2048),
        ("llama-2-7b-ultrafeedback.toml", 0.2, 2048),
        ("mistral-orpo-alpha.toml", 0.1, 2048),
        ("mistral-orpo-beta.toml", 0.1, 2048),
    ] {
        let recipe = load(name);
        let t = &recipe.training;
        let (rate, epochs, prompt) = if name.starts_with("mistral") { (5e-6, 5, 1792) } else { (8e-6, 10, 1024) };
        assert_eq!((t.beta, t.learning_rate, t.epochs), (beta, rate, epochs), "{name}");
        assert_eq!((recipe.data.max_length, recipe.data.drop_long_prompts), (max_length, Some(prompt)), "{name}");
        assert_eq!(t.batch_size * t.gradient_accumulation_steps, 32, "{name}");
        assert_eq!(t.load_best_model_at_end, !name.starts_with("mistral"), "{name}");
    }
    assert_eq!(load("sft.toml").training.learning_rate, 1e-5);
    assert_eq!(load("mistral-orpo-capybara.toml").training.beta, 0.05);
}

/// Rows with the columns of the data sets that the recipes name.
#[test]
fn the_data_sets_fit_the_layouts() {
    let turns = |answer: &str| json!([{"content": "q", "role": "user"}, {"content": answer, "role": "assistant"}]);
    let longer = |answer: &str| {
        let turn = |role: &str, content: &str| json!({"role": role, "content": content});
        json!([turn("user", "q"), turn("assistant", "a"), turn("user", "r"), turn("assistant", answer)])
    };
    let transcript = |answer: &str| format!("\n\nHuman: q\n\nAssistant: {answer}");
    let ultrafeedback = json!({"prompt": "q", "prompt_id": "1", "chosen": turns("a"), "rejected": turns("b"),
                               "messages": turns("a"), "score_chosen": 8.0, "score_rejected": 5.0});
    let cleaned = json!({"source": "s", "prompt": "q", "chosen": turns("a"), "chosen-rating": 5.0, "chosen-model": "m",
                         "rejected": turns("b"), "rejected-rating": 2.0, "rejected-model": "n"});
    let capybara = json!({"source": "s", "conversation": [{"input": "q", "output": "a"}], "original_response": "o",
                          "generation_prompt": ["g"], "raw_generation_responses": ["r"], "new_generations": ["n"],
                          "prompt": "q", "chosen": longer("b"), "rejected": longer("c"), "rating_chosen": 5,
                          "rating_rejected": 1, "chosen_model": "m", "rejected_model": "n"});
    let hh = json!({"chosen": transcript("a"), "rejected": transcript("b")});
    let rows: [(&str, &Value, usize); 4] = [
        ("opt-125m-hh.toml", &hh, 1),
        ("phi-2-ultrafeedback.toml", &ultrafeedback, 1),
        ("mistral-orpo-beta.toml", &cleaned, 1),
        ("mistral-orpo-capybara.toml", &capybara, 3),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    for (name, row, prompt_turns) in rows {
        fs::write(&path, format!("{row}\n")).unwrap();
        let given = Recipe::load(&folder().join(name), &[]).unwrap().data.selection();
        for selection in [given, Selection::default()] {
            let rows = read_preferences(&path, &selection).unwrap();
            let (_, pair) = rows.used().next().unwrap_or_else(|| panic!("{name}: {:?}", rows.dropped()));
            assert!(matches!(&pair.prompt, Text::Chat(turns) if turns.len() == prompt_turns), "{name}: {pair:?}");
        }
    }
}

#[test]
fn the_chat_template_is_that_of_the_authors() {
    let dir = tempfile::tempdir().unwrap();
    write_tokenizer(dir.path());
    let template = fs::read_to_string(folder().join("chat.jinja")).unwrap();
    let chat = ChatTokenizer::from_dir(dir.path()).unwrap().with_template(template).unwrap();
    let turns = [Message::user("q"), Message::assistant("a")];
    assert_eq!(chat.render(&turns[..1], true).unwrap(), "<|user|>\nq</s>\n<|assistant|>\n");
    assert_eq!(chat.render(&turns, false).unwrap(), "<|user|>\nq</s>\n<|assistant|>\na</s>\n");
}
