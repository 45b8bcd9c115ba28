//! From a judge's reply to a preference: the parsers of `alpaca_eval/completion_parsers.py`, with its names and
//! arguments.
//!
//! A preference is a number from 1 (the answer shown first is better) to 2 (the second is); 1.5 is a tie. What cannot
//! be parsed has no preference: it is never taken for a tie.

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Reply;
use super::python_literal;

/// How preferences are read from replies.
#[derive(Debug, Clone)]
pub enum Parser {
    /// From the log-probabilities of tokens.
    LogProb(LogProb),
    /// From the text, by one function after another.
    Text {
        /// The functions.
        stages: Vec<Stage>,
        /// Whether single values are taken out of their lists between the stages.
        squeeze: bool,
    },
    /// From the text, by the words that are verdicts. Not official: it stands in for log-probabilities.
    Words(Words),
}

/// The words that are verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// The word that says that the first answer is better.
    pub first: String,
    /// The words that say that the second one is.
    pub second: Vec<String>,
    /// Whether the reply explains its verdict first: only its last word counts then.
    pub is_last: bool,
}

/// `logprob_parser`: the share of one token's probability in that of several.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogProb {
    /// The token that says that the first answer is better.
    pub numerator_token: String,
    /// All tokens that are verdicts.
    pub denominator_tokens: Vec<String>,
    /// Whether only the likelier verdict counts, not by how much.
    #[serde(default = "yes")]
    pub is_binarize: bool,
    /// Where in the reply the verdict stands.
    #[serde(default)]
    pub log_prob_index: Position,
}

fn yes() -> bool {
    true
}

/// The place of a verdict's token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "PositionText")]
pub enum Position {
    /// The only token of the reply.
    #[default]
    Only,
    /// This one; negative numbers count from the end.
    At(i64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PositionText {
    At(i64),
    Batch(Batch),
}

#[derive(Deserialize)]
enum Batch {
    #[serde(rename = "batch")]
    Batch,
}

impl From<PositionText> for Position {
    fn from(text: PositionText) -> Self {
        match text {
            PositionText::At(index) => Self::At(index),
            PositionText::Batch(Batch::Batch) => Self::Only,
        }
    }
}

/// A function from one value to several.
#[derive(Debug, Clone)]
pub enum Stage {
    /// `regex_parser`: values by the patterns that say them, one for each match.
    Regex(Vec<(Value, Regex)>),
    /// `ranking_parser`: the rank of the model of this name in a list of `{'model': ..., 'rank': ...}`.
    Ranking(String),
    /// `json_parser`: the value of this key in an object or in each object of a list; without a key, all of it.
    Json(Option<String>),
    /// `eval_parser`: a Python literal.
    Literal,
    /// `lmsys_parser`: two scores in the first line.
    Scores,
    /// `replace_parser`: values in place of others; what is not among them stays or becomes the default.
    Replace {
        /// Old and new values.
        replacer: Map<String, Value>,
        /// What stands for all others.
        default: Option<Value>,
    },
}

/// What keeps a preference from being read.
type Unparsed = String;

impl Parser {
    /// The parser of this name with these arguments.
    ///
    /// # Errors
    /// When there is none, or an argument is missing, unknown or unusable.
    pub fn new(name: &str, arguments: &Map<String, Value>) -> Result<Self, String> {
        match name {
            "logprob_parser" => {
                let parser: LogProb = read(name, arguments)?;
                if parser.denominator_tokens.is_empty() {
                    return Err("logprob_parser needs at least one token in denominator_tokens".into());
                }
                Ok(Self::LogProb(parser))
            }
            "pipeline_meta_parser" => {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Arguments {
                    parsers_to_kwargs: Map<String, Value>,
                    #[serde(default = "yes")]
                    is_squeeze: bool,
                }
                let Arguments { parsers_to_kwargs, is_squeeze: squeeze } = read(name, arguments)?;
                if parsers_to_kwargs.is_empty() {
                    return Err("pipeline_meta_parser needs at least one parser in parsers_to_kwargs".into());
                }
                let stage = |(name, arguments): (&String, &Value)| {
                    let none = Map::new();
                    let arguments = match arguments {
                        Value::Null => &none,
                        Value::Object(arguments) => arguments,
                        _ => return Err(format!("the arguments of {name} must be a mapping")),
                    };
                    Stage::new(name, arguments)
                };
                let stages = parsers_to_kwargs.iter().map(stage).collect::<Result<_, _>>()?;
                Ok(Self::Text { stages, squeeze })
            }
            _ => Ok(Self::Text { stages: vec![Stage::new(name, arguments)?], squeeze: true }),
        }
    }

    /// The preference that a reply states, from 1 to 2.
    ///
    /// # Errors
    /// When it states none, with the reason.
    pub fn parse(&self, reply: &Reply) -> Result<f64, Unparsed> {
        let preference = match self {
            Self::LogProb(parser) => parser.parse(reply)?,
            Self::Words(words) => words.find(&reply.content().ok_or("the reply has no text")?)?,
            Self::Text { stages, squeeze } => {
                let text = reply.tool_arguments().or(reply.content()).ok_or("the reply has no text")?;
                let values = apply(stages, *squeeze, &Value::from(text.as_ref()))?;
                match values.as_slice() {
                    [Value::Number(number)] => number.as_f64().ok_or("the verdict is no number")?,
                    [other] => return Err(format!("the verdict {other} is no number")),
                    _ => return Err(format!("there are {} verdicts instead of one", values.len())),
                }
            }
        };
        match preference {
            // 0 was the value of a tie, and is still accepted for one.
            0.0 => Ok(1.5),
            1.0..=2.0 => Ok(preference),
            _ => Err(format!("the verdict {preference} is not between 1 and 2")),
        }
    }
}

impl Words {
    /// The words whose tokens a parser weighs.
    pub fn of(parser: &LogProb) -> Self {
        let word = |token: &String| token.trim().to_owned();
        let first = word(&parser.numerator_token);
        let second = parser.denominator_tokens.iter().map(word).filter(|word| *word != first).collect();
        Self { first, second, is_last: parser.log_prob_index != Position::Only }
    }

    /// All of them.
    pub fn all(&self) -> Vec<&str> {
        [&self.first].into_iter().chain(&self.second).map(String::as_str).collect()
    }

    /// The preference that a word states. Case decides.
    fn of_word(&self, word: &str) -> Option<f64> {
        let is_second = self.second.iter().any(|second| second == word);
        if word == self.first { Some(1.0) } else { is_second.then_some(2.0) }
    }

    /// The preference of a text that is nothing but a verdict, be it in the JSON that was asked for.
    pub fn alone(&self, text: &str) -> Option<f64> {
        let stated =
            serde_json::from_str::<Value>(text).ok().and_then(|json| json["verdict"].as_str().map(str::to_owned));
        self.of_word(bare(stated.as_deref().unwrap_or(text)))
    }

    /// The preference of a text that names one verdict, and no other.
    fn find(&self, text: &str) -> Result<f64, Unparsed> {
        if let Some(preference) = self.alone(text) {
            return Ok(preference);
        }
        let is_part = |character: char| character.is_alphanumeric() || "_'\u{2019}".contains(character);
        let mut words: Vec<&str> =
            text.split(|character| !is_part(character)).map(bare).filter(|word| !word.is_empty()).collect();
        if self.is_last {
            words = words.split_off(words.len().saturating_sub(1));
        }
        let mut found = words.into_iter().filter_map(|word| self.of_word(word));
        let all = || self.all().join(" or ");
        let first = found.next().ok_or_else(|| format!("the reply does not say {}", all()))?;
        if found.any(|other| other != first) {
            return Err(format!("the reply says both: {}", all()));
        }
        Ok(first)
    }
}

/// A word without what people put around it.
fn bare(text: &str) -> &str {
    text.trim_matches(|character: char| {
        character.is_whitespace() || "\"'`*.\u{201c}\u{201d}\u{2018}\u{2019}".contains(character)
    })
}

impl LogProb {
    fn parse(&self, reply: &Reply) -> Result<f64, Unparsed> {
        let index = match self.log_prob_index {
            Position::Only if reply.top_logprobs(1).is_some() => {
                return Err("the reply has several tokens instead of the verdict alone".into());
            }
            Position::Only => 0,
            Position::At(index) => index,
        };
        let top = reply.top_logprobs(index).ok_or("the reply has no log-probabilities of the verdict's token")?;
        // As in a dictionary, the last of equal tokens counts; a missing one has probability 0.
        let of = |token: &String| top.iter().rev().find(|(name, _)| name == token).map(|&(_, logprob)| logprob);
        let numerator = of(&self.numerator_token);
        let denominators: Vec<Option<f64>> = self.denominator_tokens.iter().map(of).collect();
        if numerator.is_none() && denominators.iter().all(Option::is_none) {
            let found: Vec<_> = top.iter().map(|(token, _)| format!("{token:?}")).collect();
            return Err(format!("no verdict is among the likeliest tokens {}", found.join(", ")));
        }
        let numerator = numerator.unwrap_or(f64::NEG_INFINITY);
        let greatest = denominators.iter().flatten().copied().fold(numerator, f64::max);
        if greatest == f64::NEG_INFINITY {
            return Err("no verdict has a probability above 0".into());
        }
        if self.is_binarize {
            let others = self.denominator_tokens.iter().filter(|token| **token != self.numerator_token);
            let is_best = others.into_iter().all(|token| numerator > of(token).unwrap_or(f64::NEG_INFINITY));
            return Ok(if is_best { 1.0 } else { 2.0 });
        }
        Ok(2.0 - (numerator - log_sum_exp(&denominators.into_iter().flatten().collect::<Vec<_>>())).exp())
    }
}

fn log_sum_exp(values: &[f64]) -> f64 {
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if greatest == f64::NEG_INFINITY {
        return greatest;
    }
    greatest + values.iter().map(|value| (value - greatest).exp()).sum::<f64>().ln()
}

/// `pipeline_meta_parser`: every value of a stage goes through all that follow.
fn apply(stages: &[Stage], squeeze: bool, value: &Value) -> Result<Vec<Value>, Unparsed> {
    let Some((first, rest)) = stages.split_first() else { return Ok(vec![value.clone()]) };
    if value == "" {
        return Err("the reply is empty".into());
    }
    let values = first.apply(value)?;
    if rest.is_empty() {
        return Ok(values);
    }
    let further = |value: &Value| {
        let mut values = apply(rest, squeeze, value)?;
        Ok(if squeeze && values.len() == 1 { values.remove(0) } else { Value::Array(values) })
    };
    values.iter().map(further).collect()
}

impl Stage {
    fn new(name: &str, arguments: &Map<String, Value>) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        match name {
            "regex_parser" => {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Arguments {
                    outputs_to_match: Map<String, Value>,
                }
                let Arguments { outputs_to_match } = read(name, arguments)?;
                let pattern = |(value, pattern): (String, Value)| {
                    let source = pattern.as_str().ok_or_else(|| format!("the pattern of {value} must be a text"))?;
                    let pattern = Regex::new(source).map_err(|error| format!("`{source}` is no pattern: {error}"))?;
                    // Keys of a YAML mapping may be numbers.
                    let value = value.parse::<f64>().map_or_else(|_| Value::from(value), Value::from);
                    Ok((value, pattern))
                };
                outputs_to_match.into_iter().map(pattern).collect::<Result<_, String>>().map(Self::Regex)
            }
            "ranking_parser" => {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Arguments {
                    #[serde(default = "model_1")]
                    model_1_name: String,
                }
                fn model_1() -> String {
                    "model_1".into()
                }
                read(name, arguments).map(|Arguments { model_1_name }| Self::Ranking(model_1_name))
            }
            "json_parser" => {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Arguments {
                    annotation_key: Option<String>,
                }
                read(name, arguments).map(|Arguments { annotation_key }| Self::Json(annotation_key))
            }
            "eval_parser" => read(name, arguments).map(|Nothing {}| Self::Literal),
            "lmsys_parser" => read(name, arguments).map(|Nothing {}| Self::Scores),
            "replace_parser" => {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Arguments {
                    replacer: Map<String, Value>,
                    default_replacer: Option<Value>,
                }
                let Arguments { replacer, default_replacer } = read(name, arguments)?;
                Ok(Self::Replace { replacer, default: default_replacer.filter(|value| value != "auto") })
            }
            _ => Err(format!(
                "the parser `{name}` is unknown here; known are logprob_parser and pipeline_meta_parser, and for texts \
                 regex_parser, ranking_parser, json_parser, eval_parser, lmsys_parser, replace_parser"
            )),
        }
    }

    fn apply(&self, value: &Value) -> Result<Vec<Value>, Unparsed> {
        let text = || value.as_str().ok_or_else(|| format!("{value} is no text"));
        match self {
            Self::Regex(patterns) => matches(patterns, text()?),
            Self::Ranking(name) => match value.as_str() {
                Some(text) => rank(name, &python_literal::parse(text)?),
                None => rank(name, value),
            },
            Self::Json(key) => from_json(key.as_deref(), text()?),
            Self::Literal => {
                let text = text()?;
                let value = python_literal::parse(text)?;
                match value {
                    // Of a list, not of a tuple or a set, the elements are the values.
                    Value::Array(values) if text.trim_start().starts_with('[') => Ok(values),
                    other => Ok(vec![other]),
                }
            }
            Self::Scores => scores(text()?),
            Self::Replace { replacer, default } => {
                let key = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                Ok(vec![replacer.get(&key).or(default.as_ref()).unwrap_or(value).clone()])
            }
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(name: &str, arguments: &Map<String, Value>) -> Result<T, String> {
    T::deserialize(Value::Object(arguments.clone())).map_err(|error| format!("the arguments of {name}: {error}"))
}

/// The values of the patterns that match, from the start of the text to its end; where two match, the earlier one
/// counts.
fn matches(patterns: &[(Value, Regex)], mut text: &str) -> Result<Vec<Value>, Unparsed> {
    let mut values = Vec::new();
    loop {
        let found = patterns.iter().filter_map(|(value, pattern)| pattern.find(text).map(|found| (found, value)));
        let Some((found, value)) = found.min_by_key(|(found, _)| found.start()) else { return Ok(values) };
        if found.is_empty() {
            return Err(format!("the pattern of {value} matches an empty text"));
        }
        values.push(value.clone());
        text = &text[found.end()..];
    }
}

fn rank(name: &str, ranking: &Value) -> Result<Vec<Value>, Unparsed> {
    let failed = || format!("`{ranking}` is no ranking of {name}");
    let models = ranking.as_array().ok_or_else(failed)?;
    if models.iter().any(|entry| entry.get("model").is_none()) {
        return Err(failed());
    }
    let entry = models.iter().find(|entry| entry["model"] == name).ok_or_else(failed)?;
    match entry["rank"].as_f64() {
        Some(rank) if rank == 1.0 || rank == 2.0 => Ok(vec![rank.into()]),
        _ => Err(failed()),
    }
}

fn from_json(key: Option<&str>, text: &str) -> Result<Vec<Value>, Unparsed> {
    const OPEN: &str = "```json";
    let json = match text.split_once(OPEN) {
        Some((_, rest)) => rest.split_once("```").ok_or_else(|| format!("nothing closes {OPEN} in the reply"))?.0,
        None => text,
    };
    let value: Value = serde_json::from_str(json).map_err(|error| format!("the reply is no JSON: {error}"))?;
    let pick = |value: &Value| match key {
        Some(key) => value.get(key).cloned().ok_or_else(|| format!("the reply's JSON has no `{key}`")),
        None => Ok(value.clone()),
    };
    match &value {
        Value::Object(_) => Ok(vec![pick(&value)?]),
        Value::Array(values) => values.iter().map(pick).collect(),
        _ => Err("the reply's JSON is neither an object nor a list".into()),
    }
}

fn scores(text: &str) -> Result<Vec<Value>, Unparsed> {
    let line = text.split('\n').next().unwrap_or_default().replace(',', " ");
    let scores: Vec<Option<f64>> = line.split(' ').map(|score| score.trim().parse().ok()).collect();
    let [Some(first), Some(second)] = scores[..] else { return Err(format!("`{line}` is no pair of scores")) };
    let preference = if first > second {
        1
    } else if first < second {
        2
    } else {
        0
    };
    Ok(vec![preference.into()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parser(name: &str, arguments: &Value) -> Result<Parser, String> {
        Parser::new(name, arguments.as_object().unwrap())
    }

    fn says(content: &str) -> Reply {
        Reply::try_from(json!({"choices": [{"message": {"content": content}}]})).unwrap()
    }

    /// A reply with these likeliest tokens at each position.
    fn tokens(positions: &[&[(&str, f64)]]) -> Reply {
        let content: Vec<Value> = positions
            .iter()
            .map(|top| {
                let top: Vec<Value> =
                    top.iter().map(|(token, logprob)| json!({"token": token, "logprob": logprob})).collect();
                json!({"token": top[0]["token"], "top_logprobs": top})
            })
            .collect();
        Reply::try_from(json!({"choices": [{"message": {"content": "x"}, "logprobs": {"content": content}}]})).unwrap()
    }

    fn weighted() -> Value {
        json!({"numerator_token": "m", "denominator_tokens": ["m", "M"], "is_binarize": false})
    }

    #[test]
    fn log_probabilities_weigh_the_verdict() {
        let parser = parser("logprob_parser", &weighted()).unwrap();
        let of = |top: &[(&str, f64)]| parser.parse(&tokens(&[top]));
        let (three, one) = (0.75_f64.ln(), 0.25_f64.ln());
        assert!((of(&[("M", three), ("m", one), ("The", -9.0)]).unwrap() - 1.75).abs() < 1e-15);
        assert_eq!(of(&[("M", three)]), Ok(2.0));
        assert_eq!(of(&[("m", three)]), Ok(1.0));
        assert_eq!(of(&[("m", -1.0), ("M", -1.0)]), Ok(1.5));
        let message = of(&[("Neither", -0.1), (" m", -2.0)]).unwrap_err();
        assert_eq!(message, "no verdict is among the likeliest tokens \"Neither\", \" m\"");
        let message = parser.parse(&says("m")).unwrap_err();
        assert_eq!(message, "the reply has no log-probabilities of the verdict's token");
        let message = parser.parse(&tokens(&[&[("m", -0.1)], &[("M", -0.1)]])).unwrap_err();
        assert_eq!(message, "the reply has several tokens instead of the verdict alone");
    }

    #[test]
    fn a_verdict_needs_a_probability() {
        let parser = parser("logprob_parser", &weighted()).unwrap();
        let never = f64::NEG_INFINITY;
        assert_eq!(parser.parse(&tokens(&[&[("m", -0.1), ("M", never)]])), Ok(1.0));
        let message = parser.parse(&tokens(&[&[("a", -0.1), ("m", never), ("M", never)]])).unwrap_err();
        assert_eq!(message, "no verdict has a probability above 0");
    }

    #[test]
    fn verdicts_may_be_binary_and_at_the_end() {
        let mut arguments = weighted();
        arguments["is_binarize"] = true.into();
        arguments["log_prob_index"] = json!(-1);
        let parser = parser("logprob_parser", &arguments).unwrap();
        let of = |top: &[(&str, f64)]| parser.parse(&tokens(&[&[("Because", 0.0)], top]));
        assert_eq!(of(&[("m", -0.6), ("M", -0.7)]), Ok(1.0));
        assert_eq!(of(&[("m", -0.7), ("M", -0.7)]), Ok(2.0));
        assert_eq!(of(&[("M", -0.7)]), Ok(2.0));
        assert_eq!(of(&[("m", -9.0)]), Ok(1.0));
    }

    #[test]
    fn words_are_read_with_their_case_and_only_if_they_agree() {
        let Parser::LogProb(tokens) = parser("logprob_parser", &weighted()).unwrap() else { panic!("not weighted") };
        let words = Words::of(&tokens);
        let parser = Parser::Words(words.clone());
        for (text, preference) in [
            ("m", Some(1.0)),
            (" M\n", Some(2.0)),
            ("**M**.", Some(2.0)),
            ("`m`", Some(1.0)),
            ("\"M\"", Some(2.0)),
            ("\u{201c}m\u{201d}", Some(1.0)),
            (r#"{"verdict": "M"}"#, Some(2.0)),
            ("The better answer is M.", Some(2.0)),
            ("Model m, clearly: m", Some(1.0)),
            ("I'm sure it is M", Some(2.0)),
            ("m is better than M", None),
            ("I'm not sure", None),
            ("Mm", None),
            ("", None),
            ("both", None),
        ] {
            assert_eq!(parser.parse(&says(text)).ok(), preference, "{text}");
        }
        assert_eq!(parser.parse(&says("m or M")).unwrap_err(), "the reply says both: m or M");
        assert_eq!(parser.parse(&says("neither")).unwrap_err(), "the reply does not say m or M");
        assert_eq!((words.alone("**m**"), words.alone("It is m")), (Some(1.0), None));
        let explained = Parser::Words(Words { is_last: true, ..words });
        assert_eq!(explained.parse(&says("m is short, but right. So: M")), Ok(2.0));
        assert!(explained.parse(&says("M is better, I think")).is_err());
    }

    #[test]
    fn patterns_find_one_verdict() {
        let parser = parser("regex_parser", &json!({"outputs_to_match": {"1": r" \(a\)", "2": r" \(b\)"}})).unwrap();
        assert_eq!(parser.parse(&says(" (a)")), Ok(1.0));
        assert_eq!(parser.parse(&says("It is (b).")), Ok(2.0));
        assert_eq!(parser.parse(&says(" (b) (a)")).unwrap_err(), "there are 2 verdicts instead of one");
        assert_eq!(parser.parse(&says("c")).unwrap_err(), "there are 0 verdicts instead of one");
        assert_eq!(parser.parse(&says("")).unwrap_err(), "the reply is empty");
        let stage = Stage::new("regex_parser", json!({"outputs_to_match": {"1": "a", "2": "b"}}).as_object().unwrap());
        assert_eq!(stage.unwrap().apply(&json!("b, a, b")), Ok(vec![json!(2.0), json!(1.0), json!(2.0)]));
        let empty = Stage::new("regex_parser", json!({"outputs_to_match": {"1": "a*"}}).as_object().unwrap());
        assert!(empty.unwrap().apply(&json!("b")).unwrap_err().contains("matches an empty text"));
    }

    #[test]
    fn rankings_are_python_literals() {
        let parser = parser("ranking_parser", &json!({})).unwrap();
        let of = |text: &str| parser.parse(&says(text));
        assert_eq!(of("[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"), Ok(1.0));
        assert_eq!(of("[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]"), Ok(2.0));
        for text in [
            "[{'model': 'model_1', 'rank': 3}, {'model': 'model_2', 'rank': 1}]",
            "[{'model': 'model_1', 'rank': 1}, {'name': 'model_2'}]",
            "[{'model': 'm', 'rank': 1}]",
            "{'model': 'model_1', 'rank': 1}",
            "The first is better.",
        ] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pipelines_go_from_a_tool_call_to_a_rank() {
        let arguments = json!({"parsers_to_kwargs": {
            "json_parser": {"annotation_key": "ordered_models"}, "ranking_parser": {"model_1_name": "m"}}});
        let parser = parser("pipeline_meta_parser", &arguments).unwrap();
        let call = |arguments: &str| {
            let message = json!({"content": null, "tool_calls": [{"function": {"arguments": arguments}}]});
            parser.parse(&Reply::try_from(json!({"choices": [{"message": message}]})).unwrap())
        };
        assert_eq!(call(r#"{"ordered_models": [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}"#), Ok(2.0));
        assert_eq!(call("{}").unwrap_err(), "the reply's JSON has no `ordered_models`");
        assert!(call(r#"{"ordered_models": 3}"#).is_err());
    }

    #[test]
    fn the_other_functions() {
        let of = |name: &str, arguments: &Value, text: &str| parser(name, arguments).unwrap().parse(&says(text));
        let key = json!({"annotation_key": "integer"});
        assert_eq!(of("json_parser", &key, "blah ```json\n{\"integer\": 1}``` blah"), Ok(1.0));
        assert_eq!(of("json_parser", &key, "[{\"integer\": 2}]"), Ok(2.0));
        assert!(of("json_parser", &key, "{\"integer\": true}").unwrap_err().contains("is no number"));
        assert!(of("json_parser", &key, "```json {").is_err());
        assert!(of("json_parser", &key, "3").is_err());
        assert_eq!(of("eval_parser", &json!({}), "[1.25]"), Ok(1.25));
        assert!(of("eval_parser", &json!({}), "(1, 2)").is_err());
        assert_eq!(of("eval_parser", &json!({}), "3").unwrap_err(), "the verdict 3 is not between 1 and 2");
        for (text, preference) in [("1 7\n...", 2.0), ("7,1", 1.0), ("1 1", 1.5)] {
            assert_eq!(of("lmsys_parser", &json!({}), text), Ok(preference));
        }
        assert!(of("lmsys_parser", &json!({}), "7").is_err());
        let replacer = json!({"parsers_to_kwargs": {"replace_parser": {"replacer": {"a": 1, "b": 2}}}});
        assert_eq!(of("pipeline_meta_parser", &replacer, "b"), Ok(2.0));
        assert!(of("pipeline_meta_parser", &replacer, "c").is_err());
    }

    #[test]
    fn wrong_arguments_are_refused_by_name() {
        for (name, arguments, problem) in [
            ("xml_parser", json!({}), "`xml_parser` is unknown"),
            ("ranking_parser", json!({"model_2_name": "m"}), "ranking_parser: unknown field `model_2_name`"),
            ("logprob_parser", json!({"numerator_token": "m"}), "missing field `denominator_tokens`"),
            ("logprob_parser", json!({"numerator_token": "m", "denominator_tokens": []}), "at least one token"),
            ("regex_parser", json!({"outputs_to_match": {"1": "("}}), "`(` is no pattern"),
            ("pipeline_meta_parser", json!({"parsers_to_kwargs": {}}), "at least one parser"),
            (
                "pipeline_meta_parser",
                json!({"parsers_to_kwargs": {"logprob_parser": {}}}),
                "`logprob_parser` is unknown",
            ),
        ] {
            let message = parser(name, &arguments).unwrap_err();
            assert!(message.contains(problem), "{message}");
        }
    }
}
