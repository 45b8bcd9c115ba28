//! Python's methods of strings, lists, tuples and dicts, as far as they change nothing.

use std::rc::Rc;

use super::args::{CallArgs, int_or, needed_str, optional_str};
use super::error::{Error, Result};
use super::eval::Run;
use super::filters::escaped;
use super::format;
use super::python::{capitalized, is_cased, is_printable, is_space, lines, titled};
use super::value::{Callable, Dict, Text, Value, ViewKind};

const OF_STRINGS: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// True if the type of `of` has a method `name`.
pub fn exists(of: &Value, name: &str) -> bool {
    match of {
        Value::Str(_) => OF_STRINGS.contains(&name),
        Value::List(_) => ["copy", "count", "index"].contains(&name),
        Value::Tuple(_) => ["count", "index"].contains(&name),
        Value::View(view) => matches!(view.kind, ViewKind::Range(_)) && ["count", "index"].contains(&name),
        Value::Dict(_) => ["copy", "fromkeys", "get", "items", "keys", "values"].contains(&name),
        Value::Float(_) => name == "is_integer",
        Value::Int(_) | Value::Bool(_) => ["bit_length", "is_integer"].contains(&name),
        Value::Loop(_) => ["changed", "cycle"].contains(&name),
        Value::Callable(callable) => match &**callable {
            Callable::Cycler(..) => ["next", "reset"].contains(&name),
            Callable::Function(function) => *function == "dict" && name == "fromkeys",
            _ => false,
        },
        _ => false,
    }
}

/// True if Python's type has a method `name` that changes the value, which jinja's sandbox refuses.
pub fn changes(of: &Value, name: &str) -> bool {
    match of {
        Value::List(_) => ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"].contains(&name),
        Value::Dict(_) => ["clear", "pop", "popitem", "setdefault", "update"].contains(&name),
        _ => false,
    }
}

/// Calls the method `name` of `of`.
pub fn call(run: &mut Run, of: &Value, name: &str, args: CallArgs) -> Result<Value> {
    match of {
        Value::List(_) | Value::Tuple(_) | Value::View(_) => run.read(of)?,
        _ => run.spend(of.len().unwrap_or(0))?,
    }
    for arg in &args.positional {
        run.read(arg)?;
    }
    match of {
        Value::Str(text) => string(run, text, name, args),
        Value::Dict(dict) => of_dict(run, dict, name, args),
        Value::List(_) | Value::Tuple(_) | Value::View(_) => of_sequence(of, name, args),
        Value::Float(number) => Ok(Value::Bool(number.fract() == 0.0)),
        Value::Int(_) | Value::Bool(_) => Ok(match name {
            "bit_length" => Value::Int((128 - of.as_int().unwrap_or(0).unsigned_abs().leading_zeros()).into()),
            _ => Value::Bool(true),
        }),
        Value::Loop(state) => {
            let items = args.unnamed(name)?;
            if name == "changed" {
                let mut last = state.changed.borrow_mut();
                let same = last
                    .as_ref()
                    .is_some_and(|last| last.len() == items.len() && last.iter().zip(&items).all(|(a, b)| a.equals(b)));
                *last = Some(items);
                return Ok(Value::Bool(!same));
            }
            match items.len() {
                0 => Err(Error::new("no items for cycling given")),
                length => Ok(items[state.at.get() % length].clone()),
            }
        }
        Value::Callable(callable) => match &**callable {
            Callable::Cycler(items, at) => {
                let current = items[at.get()].clone();
                at.set(if name == "reset" { 0 } else { (at.get() + 1) % items.len() });
                Ok(if name == "reset" { Value::None } else { current })
            }
            _ => from_keys(run, args),
        },
        _ => Err(Error::new(format!("`{}` has no method `{name}`", of.type_name()))),
    }
}

fn from_keys(run: &mut Run, args: CallArgs) -> Result<Value> {
    let [keys, value] = args.bind("fromkeys", ["iterable", "value"])?;
    let keys = keys.ok_or_else(|| Error::new("`fromkeys` needs an iterable"))?.items()?;
    let mut dict = Dict::default();
    for key in keys {
        run.insert(&mut dict, key, value.clone().unwrap_or(Value::None))?;
    }
    Ok(Value::Dict(Rc::new(dict)))
}

fn of_dict(run: &mut Run, dict: &Dict, name: &str, args: CallArgs) -> Result<Value> {
    run.spend(dict.pairs.len() * 16)?;
    match name {
        "get" => {
            let [key, default] = args.bind(name, ["key", "default"])?;
            let key = key.ok_or_else(|| Error::new("`get` needs a key"))?;
            run.look_up(dict, &key)?;
            Ok(dict.get(&key).cloned().or(default).unwrap_or(Value::None))
        }
        "fromkeys" => from_keys(run, args),
        _ => {
            let [] = args.bind(name, [])?;
            Ok(match name {
                "items" => Value::view(dict.items(), ViewKind::Items),
                "keys" => Value::view(dict.keys(), ViewKind::Keys),
                "values" => Value::view(dict.values(), ViewKind::Values),
                _ => Value::Dict(Rc::new(dict.clone())),
            })
        }
    }
}

fn of_sequence(of: &Value, name: &str, args: CallArgs) -> Result<Value> {
    let items = of.as_sequence().unwrap_or_default();
    if name == "copy" {
        return Ok(of.clone());
    }
    let [wanted, from, to] = args.bind(name, ["value", "start", "stop"])?;
    let wanted = wanted.ok_or_else(|| Error::new(format!("`{name}` needs a value")))?;
    if name == "count" {
        return Ok(Value::int(items.iter().filter(|item| item.equals(&wanted)).count()));
    }
    let range = bounds(from, to, items.len(), name)?;
    let found = range.clone().find(|at| items[*at].equals(&wanted));
    found.map(Value::int).ok_or_else(|| Error::new(format!("{} is not in the {}", wanted.repr(), of.type_name())))
}

/// The part of `0..length` between two positions that may count from the end.
fn bounds(from: Option<Value>, to: Option<Value>, length: usize, name: &str) -> Result<std::ops::Range<usize>> {
    let length = i128::try_from(length).expect("a usize fits");
    let place = |value: Option<Value>, default: i128| -> Result<i128> {
        let at = int_or(value.filter(|value| !matches!(value, Value::None)), default, name)?;
        Ok(if at < 0 { (at + length).max(0) } else { at.min(length) })
    };
    let (from, to) = (place(from, 0)?, place(to, length)?);
    let index = |at: i128| usize::try_from(at).expect("it lies within the length");
    Ok(index(from)..index(to.max(from)))
}

fn string(run: &mut Run, of: &Text, name: &str, args: CallArgs) -> Result<Value> {
    let text = &*of.text;
    let like = |text: String| Value::Str(Text { text: text.into(), safe: of.safe });
    let list = |parts: Vec<String>| Value::list(parts.into_iter().map(like).collect());
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = optional_str(chars, name)?;
            let strips = |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(c));
            return Ok(like(
                match name {
                    "strip" => text.trim_matches(strips),
                    "lstrip" => text.trim_start_matches(strips),
                    _ => text.trim_end_matches(strips),
                }
                .to_string(),
            ));
        }
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            let most = usize::try_from(int_or(most, -1, name)?).unwrap_or(usize::MAX - 1);
            let parts = match optional_str(separator, name)? {
                Some(separator) if separator.is_empty() => return Err(Error::new("empty separator")),
                Some(separator) if name == "split" => {
                    text.splitn(most.saturating_add(1), separator.as_str()).map(String::from).collect()
                }
                Some(separator) => {
                    let parts = text.rsplitn(most.saturating_add(1), separator.as_str());
                    let mut parts: Vec<String> = parts.map(String::from).collect();
                    parts.reverse();
                    parts
                }
                None if name == "split" => words(text, most),
                None => words_from_end(text, most),
            };
            run.spend(text.len() + parts.len() * 16)?;
            return Ok(list(parts));
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let keep = keep.is_some_and(|keep| keep.is_true());
            let parts: Vec<String> = lines(text, keep).into_iter().map(String::from).collect();
            run.spend(text.len() + parts.len() * 16)?;
            return Ok(list(parts));
        }
        "partition" | "rpartition" => {
            let [separator] = args.bind(name, ["sep"])?;
            let separator = needed_str(separator, name)?;
            if separator.is_empty() {
                return Err(Error::new("empty separator"));
            }
            let found = if name == "partition" { text.split_once(&separator) } else { text.rsplit_once(&separator) };
            let parts = match found {
                Some((before, after)) => [before, &separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            return Ok(Value::tuple(parts.into_iter().map(|part| like(part.into())).collect()));
        }
        "startswith" | "endswith" => return starts_or_ends(text, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => return found(text, name, args),
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (old, new) = (needed_str(old, name)?, needed_str(new, name)?);
            let new = if of.safe { escaped(&new) } else { new };
            let count = int_or(count, -1, name)?;
            return Ok(like(replaced(run, text, &old, &new, count)?));
        }
        "removeprefix" | "removesuffix" => {
            let [part] = args.bind(name, ["part"])?;
            let part = needed_str(part, name)?;
            let rest = if name == "removeprefix" { text.strip_prefix(&*part) } else { text.strip_suffix(&*part) };
            return Ok(like(rest.unwrap_or(text).to_string()));
        }
        "join" => {
            let [items] = args.bind(name, ["iterable"])?;
            let items = items.ok_or_else(|| Error::new("`join` needs an iterable"))?.items()?;
            let mut out = String::new();
            for (at, item) in items.iter().enumerate() {
                let Value::Str(part) = item else {
                    let found = item.type_name();
                    return Err(Error::new(format!("sequence item {at}: expected str instance, {found} found")));
                };
                out.push_str(if at > 0 { text } else { "" });
                out.push_str(&if of.safe && !part.safe { escaped(&part.text) } else { part.text.to_string() });
                run.spend(text.len() + part.text.len())?;
            }
            return Ok(like(out));
        }
        "format" => return format::braces(run, of, &args),
        "format_map" => {
            let [mapping] = args.bind(name, ["mapping"])?;
            let Some(Value::Dict(dict)) = mapping else { return Err(Error::new("`format_map` needs a mapping")) };
            let named = dict.pairs.iter().map(|(key, value)| (key.to_text().to_string(), value.clone())).collect();
            return format::braces(run, of, &CallArgs { positional: Vec::new(), named });
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = args.bind(name, ["width", "fillchar"])?;
            let width = usize::try_from(int_or(width, 0, name)?).unwrap_or(0);
            let fill = optional_str(fill, name)?.unwrap_or_else(|| " ".into());
            run.spend(width.saturating_mul(fill.len()))?;
            return Ok(like(aligned(text, name, width, &fill)?));
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            let size = usize::try_from(int_or(size, 8, name)?).unwrap_or(0);
            run.spend(size.saturating_mul(text.matches('\t').count()))?;
            return Ok(like(with_spaces_for_tabs(text, size)));
        }
        _ => {}
    }
    let [] = args.bind(name, [])?;
    let all = |wanted: fn(char) -> bool| Value::Bool(!text.is_empty() && text.chars().all(wanted));
    let cased = |wanted: fn(char) -> bool| {
        Value::Bool(text.chars().any(is_cased) && text.chars().filter(|c| is_cased(*c)).all(wanted))
    };
    Ok(match name {
        "upper" => like(text.to_uppercase()),
        "lower" => like(text.to_lowercase()),
        "casefold" => like(text.to_lowercase().replace('ß', "ss").replace('ς', "σ")),
        "capitalize" => like(capitalized(text)),
        "title" => like(titled(text)),
        "swapcase" => {
            let swapped = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            like(text.chars().map(swapped).collect())
        }
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdecimal" => all(|c| c.is_ascii_digit()),
        "isdigit" => all(|c| c.is_ascii_digit() || "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉".contains(c)),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isascii" => Value::Bool(text.is_ascii()),
        "isprintable" => Value::Bool(text.chars().all(is_printable)),
        "islower" => cased(char::is_lowercase),
        "isupper" => cased(char::is_uppercase),
        "istitle" => Value::Bool(text.chars().any(is_cased) && text == titled(text)),
        "isidentifier" => {
            let mut chars = text.chars();
            let begins = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
            Value::Bool(begins && chars.all(|c| c.is_alphanumeric() || c == '_'))
        }
        _ => return Err(Error::new(format!("'str' object has no method `{name}`"))),
    })
}

/// `str.split()`: at most `most` times at whitespace.
fn words(text: &str, most: usize) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if words.len() == most {
            words.push(rest.to_string());
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        words.push(rest[..end].to_string());
        rest = rest[end..].trim_start_matches(is_space);
    }
    words
}

fn words_from_end(text: &str, most: usize) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if words.len() == most {
            words.push(rest.to_string());
            break;
        }
        let from = rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
        words.push(rest[from..].to_string());
        rest = rest[..from].trim_end_matches(is_space);
    }
    words.reverse();
    words
}

/// The bytes of `text` between two positions in characters.
fn within(text: &str, from: Option<Value>, to: Option<Value>, name: &str) -> Result<Option<std::ops::Range<usize>>> {
    let length = text.chars().count();
    let beyond = from.as_ref().and_then(Value::as_int).is_some_and(|from| from > length as i128);
    let range = bounds(from, to, length, name)?;
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok((!beyond).then(|| byte(range.start)..byte(range.end)))
}

fn starts_or_ends(text: &str, name: &str, args: CallArgs) -> Result<Value> {
    let [parts, from, to] = args.bind(name, ["part", "start", "end"])?;
    let Some(range) = within(text, from, to, name)? else { return Ok(Value::Bool(false)) };
    let text = &text[range];
    let parts = match parts {
        Some(Value::Tuple(tuple)) => tuple.items.clone(),
        Some(part) => vec![part],
        None => Vec::new(),
    };
    for part in parts {
        let part = needed_str(Some(part), name)?;
        if if name == "startswith" { text.starts_with(&*part) } else { text.ends_with(&*part) } {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn found(text: &str, name: &str, args: CallArgs) -> Result<Value> {
    let [part, from, to] = args.bind(name, ["sub", "start", "end"])?;
    let part = needed_str(part, name)?;
    let range = within(text, from, to, name)?;
    if name == "count" {
        let count = range.map_or(0, |range| text[range].matches(&*part).count());
        return Ok(Value::int(count));
    }
    let found = range.and_then(|range| {
        let inside = &text[range.clone()];
        let at = if name.starts_with('r') { inside.rfind(&*part) } else { inside.find(&*part) };
        at.map(|at| text[..range.start + at].chars().count())
    });
    match found {
        Some(at) => Ok(Value::int(at)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Error::new("substring not found")),
    }
}

/// `text.replace(old, new, count)`, with every place if `count` is negative.
pub fn replaced(run: &mut Run, text: &str, old: &str, new: &str, count: i128) -> Result<String> {
    let times = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let times = usize::try_from(count).map_or(times, |count| count.min(times));
    run.spend(text.len() + times.saturating_mul(new.len()))?;
    Ok(text.replacen(old, new, times))
}

/// Fills `text` to `width` on the side that the method `name` fills.
pub fn aligned(text: &str, name: &str, width: usize, fill: &str) -> Result<String> {
    if fill.chars().count() != 1 {
        return Err(Error::new("The fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(text.chars().count());
    Ok(match name {
        "ljust" => text.to_string() + &fill.repeat(missing),
        "rjust" => fill.repeat(missing) + text,
        "zfill" => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            sign.to_string() + &"0".repeat(missing) + digits
        }
        _ => {
            // As CPython rounds it.
            let left = missing / 2 + (missing & width & 1);
            fill.repeat(left) + text + &fill.repeat(missing - left)
        }
    })
}

fn with_spaces_for_tabs(text: &str, size: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    out
}
