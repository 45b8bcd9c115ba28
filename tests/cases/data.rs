//! Preference files as people have them: what the trainer reads, drops, refuses and says.

use serde_json::json;

use crate::setting::{Case, names};

/// A template that shows every role.
const ROLES: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                     {% if add_generation_prompt %}assistant:{% endif %}";
const TINYSTORIES: &str = "data/models/tinystories-656k";
const WITH_ROLES: [&str; 2] = ["--set", "data.chat_template=\"roles.jinja\""];

#[test]
fn prompts_longer_than_max_length_are_dropped_and_counted() {
    let Some(case) = Case::open("01-prompt-longer-than-max-length") else { return };
    let report = case.check("r.toml", &[]);
    assert_eq!((report.rows_used(), report.dropped("max_length")), (6, 1), "{}", report.notes());
    names(&case.refused("only.toml", &[]), &["only-long.jsonl", "max_length"]);
}

#[test]
fn byte_order_marks_and_every_line_end_are_read() {
    let Some(case) = Case::open("02-encodings") else { return };
    for recipe in ["bom.toml", "crlf.toml", "cr.toml", "recipe-bom.toml"] {
        let report = case.check(recipe, &[]);
        assert_eq!(report.rows_used(), 6, "{recipe}: {}", report.notes());
        assert!(report.shown("prompt").contains("Tell me about the sun."), "{recipe}");
    }
    for (recipe, file) in [("latin1.toml", "latin1.jsonl"), ("utf16.toml", "utf16.jsonl")] {
        names(&case.refused(recipe, &[]), &[file, "UTF-8"]);
    }
}

#[test]
fn numbers_that_python_writes_and_json_lacks_are_read() {
    let Some(case) = Case::open("03-python-nan-in-json") else { return };
    assert_eq!(case.check("r.toml", &[]).rows_used(), 6);
}

#[test]
fn half_a_surrogate_pair_is_refused_with_its_line() {
    let Some(case) = Case::open("04-lone-surrogate") else { return };
    names(&case.refused("r.toml", &[]), &["t.jsonl", "line 2"]);
}

#[test]
fn of_a_prompt_beside_whole_conversations_the_conversations_count() {
    let Some(case) = Case::open("05-prompt-string-and-conversations") else { return };
    let report = case.check("r.toml", &[]);
    let prompt = report.shown("prompt");
    assert!(prompt.trim_start().ends_with("Tell me about the sun.\nBot:"), "{prompt:?}");
    assert_eq!(prompt.matches("Hi there.").count(), 1, "{prompt:?}");
    assert!(report.shown("chosen").contains("The sun is a nice thing to see."));
}

#[test]
fn a_response_in_the_wrong_role_is_dropped_by_that_reason() {
    let Some(case) = Case::open("06-wrong-role-of-rejected") else { return };
    names(&case.refused("r.toml", &[]), &["t.jsonl", "6", "assistant's turn"]);
}

#[test]
fn a_system_column_becomes_the_system_message() {
    let Some(case) = Case::open("07-system-column-list") else { return };
    case.write("roles.jinja", ROLES);
    for recipe in ["r.toml", "s.toml", "p.toml"] {
        let prompt = case.check(recipe, &WITH_ROLES).shown("prompt");
        assert!(prompt.contains("system: Be kind.\nuser: Tell me about the sun.\nassistant:"), "{recipe}: {prompt:?}");
        // A template that does not show it is said not to.
        names(&case.check(recipe, &[]).notes(), &["system"]);
    }
    // Tools reach the template, and one that shows none is said to.
    let report = case.check("tools.toml", &[]);
    names(&report.notes(), &["tools"]);
}

#[test]
fn a_value_of_a_wrong_type_is_named() {
    let Some(case) = Case::open("08-alpaca-ranking-oddities") else { return };
    names(&case.refused("r.toml", &[]), &["t.jsonl", "line 1", "output"]);
    let error = case.refused("obj.toml", &[]);
    names(&error, &["obj.jsonl", "object", "`answer`"]);
    assert!(!error.contains("its layout is not known"), "the columns are named in the recipe: {error}");
}

#[test]
fn a_prompt_repeated_in_both_responses_is_noted() {
    let Some(case) = Case::open("09-prompt-repeated-in-sides") else { return };
    let report = case.check("r.toml", &[]);
    assert_eq!(report.rows_used(), 6);
    names(&report.notes(), &["prompt", "begin", "6"]);
}

/// What is trained is what the server makes of the same messages.
fn assert_served_as_trained(case: &Case, model: &str, template: &str, says: &str) {
    let report = case.check("r.toml", &[]);
    let server = case.serve(&case.shared(model), &["--chat-template", template]);
    let mut served = server.tokenize(&json!({"messages": case.rows("t.jsonl")[0]["prompt"]}));
    let trained = report.ids("prompt");
    // The boundary of a response may lie a token off.
    served.truncate(trained.len());
    assert_eq!(served, trained, "served {:?}, trained {:?}", server.detokenize(&served), report.shown("prompt"));
    names(&server.detokenize(&trained), &[says]);
}

#[test]
fn content_in_parts_is_trained_as_it_is_served() {
    let Some(case) = Case::open("10-content-parts-trained-and-served") else { return };
    let template = case.shared("data/chat_templates/user_bot.jinja");
    assert_served_as_trained(&case, TINYSTORIES, template.to_str().unwrap(), "Tell me about the sun.");
}

#[test]
fn tool_calls_with_arguments_as_text_are_trained_as_they_are_served() {
    let Some(case) = Case::open("11-tool-call-arguments-trained-and-served") else { return };
    assert_served_as_trained(&case, "data/models/stories260k", "t.jinja", r#""arguments": {"city": "Oslo"}"#);
}

#[test]
fn the_role_developer_is_trained_as_it_is_served() {
    let Some(case) = Case::open("12-developer-role") else { return };
    assert_served_as_trained(&case, TINYSTORIES, "t.jinja", "Be kind.");
}

#[test]
fn containers_that_other_programs_write_are_read() {
    let Some(case) = Case::open("13-containers") else { return };
    for recipe in ["data.toml", "pretty.toml", "pretty-one.toml", "t.toml"] {
        let report = case.check(recipe, &[]);
        assert_eq!(report.rows_used(), 6, "{recipe}: {}", report.notes());
        names(&report.shown("chosen"), &["The sun is a nice thing to see."]);
    }
    // An object of splits: the one that is meant, or a refusal that names it.
    let said = case.orpo(&["train", "check", "splits.toml"]);
    if said.code != Some(0) {
        said.names(&["splits.json", "train"]);
    }
}

#[test]
fn unpaired_feedback_is_refused_with_what_it_is() {
    let Some(case) = Case::open("15-unpaired") else { return };
    for recipe in ["r.toml", "num.toml"] {
        let error = case.refused(recipe, &[]);
        names(&error, &["label"]);
        assert!(!error.contains("layout is not known"), "{recipe}: {error}");
    }
    names(&case.refused("rated.toml", &[]), &["rated.jsonl"]);
}

#[test]
fn templates_that_eat_the_difference_or_the_turn_are_found() {
    let Some(case) = Case::open("16-templates-that-change-content") else { return };
    // Both sides become the same tokens: nothing to learn.
    names(&case.refused("strip-all.toml", &[]), &["chosen equals rejected"]);
    for recipe in ["think.toml", "trim.toml"] {
        let report = case.check(recipe, &[]);
        assert_eq!((report.rows_used(), report.dropped("equals")), (6, 0), "{recipe}: {}", report.notes());
    }
    names(&case.check("think.toml", &[]).shown("chosen"), &["<think>"]);
    // One opens the assistant's turn always, the other never: the tokens are shown.
    for recipe in ["always.toml", "never.toml"] {
        names(&case.check(recipe, &[]).notes(), &["chat template", "assistant"]);
    }
}

#[test]
fn sides_that_differ_only_beyond_max_length_are_dropped_as_equal() {
    let Some(case) = Case::open("33-equal-after-truncation") else { return };
    names(&case.refused("r.toml", &[]), &["4", "chosen equals rejected"]);
}
