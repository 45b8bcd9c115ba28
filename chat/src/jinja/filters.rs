//! jinja's filters: `value | name`.

use std::cmp::Ordering;

use super::access;
use super::args::{CallArgs, int_or, needed_str, optional_str};
use super::checks;
use super::error::{Error, Result};
use super::eval::Run;
use super::format;
use super::json;
use super::methods::{aligned, replaced};
use super::python::{capitalized, is_space, lines, rounded};
use super::value::{Dict, Text, Value};

const NAMES: [&str; 49] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

/// Those that look at a value and its items, not at what is in these.
const SHALLOW: [&str; 17] = [
    "attr",
    "batch",
    "count",
    "d",
    "default",
    "first",
    "items",
    "last",
    "length",
    "list",
    "map",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "slice",
];

/// True if templates may use the filter. Those of jinja that are missing make links or text for web pages, or are
/// random.
pub fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `text` with the characters that HTML gives a meaning to as references.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// A string as it is, anything else as text.
fn soft(value: &Value) -> Text {
    match value {
        Value::Str(text) => text.clone(),
        _ => Text { text: value.to_text(), safe: false },
    }
}

fn like(text: &Text, changed: String) -> Value {
    Value::Str(Text { text: changed.into(), safe: text.safe })
}

pub fn apply(run: &mut Run, name: &str, value: Value, args: CallArgs) -> Result<Value> {
    if SHALLOW.contains(&name) {
        run.spend(value.len().unwrap_or(0))?;
    } else {
        run.read(&value)?;
        for arg in &args.positional {
            run.read(arg)?;
        }
    }
    match name {
        "map" => return map(run, value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => return select(run, name, value, args),
        "format" => {
            let text = soft(&value);
            return if args.named.is_empty() {
                format::percent(run, &text, &args.positional, None)
            } else {
                let mut dict = Dict::default();
                args.named.into_iter().for_each(|(name, value)| dict.insert(name.as_str().into(), value));
                let mapping = Value::Dict(std::rc::Rc::new(dict));
                format::percent(run, &text, std::slice::from_ref(&mapping), Some(&mapping))
            };
        }
        "abs" | "capitalize" | "count" | "e" | "escape" | "first" | "forceescape" | "items" | "last" | "length"
        | "list" | "lower" | "pprint" | "reverse" | "safe" | "string" | "title" | "upper" | "urlencode"
        | "wordcount" => {
            let [] = args.bind(name, [])?;
            return plain(run, name, value);
        }
        _ => {}
    }
    match name {
        "tojson" => to_json(run, &value, args),
        "default" | "d" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            let boolean = boolean.is_some_and(|boolean| boolean.is_true());
            let is_missing = matches!(value, Value::Undefined(_)) || (boolean && !value.is_true());
            Ok(if is_missing { default.unwrap_or_else(|| "".into()) } else { value })
        }
        "attr" => {
            let [attribute] = args.bind(name, ["name"])?;
            let attribute = needed_str(attribute, name)?;
            let own = access::own_attribute(&value, &attribute)?;
            Ok(own.unwrap_or_else(|| Value::undefined(format!("`{}` has no `{attribute}`", value.type_name()))))
        }
        "join" => {
            let [separator, attribute] = args.bind(name, ["d", "attribute"])?;
            let separator = separator.map_or_else(|| "".into(), |separator| separator.to_text());
            let mut out = String::new();
            for (at, item) in value.items()?.into_iter().enumerate() {
                let item = by_attribute(item, attribute.as_ref())?.to_text();
                run.spend(separator.len() + item.len())?;
                out.push_str(if at > 0 { &separator } else { "" });
                out.push_str(&item);
            }
            Ok(out.into())
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let text = |value: Option<Value>| match value {
                Some(value) => Ok(value.to_text()),
                None => Err(Error::new("`replace` needs two strings")),
            };
            let (old, new) = (text(old)?, text(new)?);
            let count = int_or(count.filter(|count| !matches!(count, Value::None)), -1, name)?;
            Ok(replaced(run, &value.to_text(), &old, &new, count)?.into())
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = optional_str(chars, name)?;
            let text = soft(&value);
            let strips = |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(c));
            Ok(like(&text, text.text.trim_matches(strips).into()))
        }
        "indent" => indent(run, &value, args),
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let width = usize::try_from(int_or(width, 80, name)?).unwrap_or(0);
            run.spend(width)?;
            let text = soft(&value);
            Ok(like(&text, aligned(&text.text, name, width, " ")?))
        }
        "truncate" => truncate(&value, args),
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            let base = u32::try_from(int_or(base, 10, name)?).unwrap_or(0);
            let default = default.unwrap_or(Value::Int(0));
            match &value {
                Value::Undefined(message) => Err(Error::new(&**message)),
                Value::Float(number) if number.is_finite() => Ok(Value::Int(number.trunc() as i128)),
                Value::Str(text) => Ok(parsed_int(&text.text, base).map_or(default, Value::Int)),
                _ => Ok(value.as_int().map_or(default, Value::Int)),
            }
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            match &value {
                Value::Undefined(message) => Err(Error::new(&**message)),
                Value::Str(text) => {
                    Ok(parsed_float(&text.text).map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
                }
                _ => Ok(value.as_number().map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float)),
            }
        }
        "round" => {
            let [precision, method] = args.bind(name, ["precision", "method"])?;
            let precision = i32::try_from(int_or(precision, 0, name)?).unwrap_or(0).clamp(-300, 300);
            let method = optional_str(method, name)?.unwrap_or_else(|| "common".into());
            let number = value.as_number().ok_or_else(|| Error::new("`round` needs a number"))?;
            let scale = 10_f64.powi(precision);
            match method.as_str() {
                "common" if value.as_int().is_some() && precision >= 0 => Ok(value),
                "common" if value.as_int().is_some() => Ok(Value::Int(rounded(number, precision) as i128)),
                "common" => Ok(Value::Float(rounded(number, precision))),
                "ceil" => Ok(Value::Float((number * scale).ceil() / scale)),
                "floor" => Ok(Value::Float((number * scale).floor() / scale)),
                _ => Err(Error::new("method must be common, ceil or floor")),
            }
        }
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let mut sum = start.unwrap_or(Value::Int(0));
            for item in value.items()? {
                let item = by_attribute(item, attribute.as_ref())?;
                sum = super::operators::binary(run, super::ast::Binary::Add, &sum, &item)?;
            }
            Ok(sum)
        }
        "min" | "max" => {
            let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let items = value.items()?;
            let keys = keys(&items, attribute.as_ref(), case_sensitive)?;
            let mut best: Option<usize> = None;
            for at in 0..items.len() {
                let better = match best {
                    None => true,
                    Some(best) => {
                        let order = keys[at].order(&keys[best])?;
                        order == Some(if name == "min" { Ordering::Less } else { Ordering::Greater })
                    }
                };
                best = if better { Some(at) } else { best };
            }
            Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |at| items[at].clone()))
        }
        "sort" => {
            let [reverse, case_sensitive, attribute] = args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let items = value.items()?;
            let keys = match attribute.as_ref().and_then(Value::as_str).filter(|names| names.contains(',')) {
                Some(names) => {
                    let mut columns = Vec::new();
                    for name in names.split(',') {
                        columns.push(self::keys(&items, Some(&name.into()), case_sensitive.clone())?);
                    }
                    let row = |at: usize| Value::tuple(columns.iter().map(|column| column[at].clone()).collect());
                    (0..items.len()).map(row).collect()
                }
                None => self::keys(&items, attribute.as_ref(), case_sensitive)?,
            };
            sorted(run, items, &keys, reverse.is_some_and(|reverse| reverse.is_true())).map(Value::list)
        }
        "unique" => {
            let [case_sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let items = value.items()?;
            let keys = keys(&items, attribute.as_ref(), case_sensitive)?;
            let mut kept: Vec<usize> = Vec::new();
            for at in 0..items.len() {
                run.spend(kept.len() * 8)?;
                if !kept.iter().any(|kept| keys[*kept].equals(&keys[at])) {
                    kept.push(at);
                }
            }
            Ok(Value::iter(kept.into_iter().map(|at| items[at].clone()).collect()))
        }
        "dictsort" => {
            let [case_sensitive, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = &value else { return Err(Error::new("`dictsort` needs a dict")) };
            let by = optional_str(by, name)?.unwrap_or_else(|| "key".into());
            let compared = match by.as_str() {
                "key" => dict.keys(),
                "value" => dict.values(),
                _ => return Err(Error::new("You can only sort by either \"key\" or \"value\"")),
            };
            let keys = keys(&compared, None, case_sensitive)?;
            sorted(run, dict.items(), &keys, reverse.is_some_and(|reverse| reverse.is_true())).map(Value::list)
        }
        "groupby" => {
            let [attribute, default, case_sensitive] = args.bind(name, ["attribute", "default", "case_sensitive"])?;
            let items = value.items()?;
            let mut groupers = Vec::new();
            for item in &items {
                let grouper = by_attribute(item.clone(), attribute.as_ref())?;
                let missing = matches!(grouper, Value::Undefined(_));
                groupers.push(default.clone().filter(|_| missing).unwrap_or(grouper));
            }
            let keys = keys(&groupers, None, case_sensitive)?;
            let positions = sorted(run, (0..items.len()).map(Value::int).collect(), &keys, false)?;
            let mut groups: Vec<(usize, Vec<Value>)> = Vec::new();
            for at in positions.iter().filter_map(|at| usize::try_from(at.as_int()?).ok()) {
                match groups.last_mut() {
                    Some((first, group)) if keys[*first].equals(&keys[at]) => group.push(items[at].clone()),
                    _ => groups.push((at, vec![items[at].clone()])),
                }
            }
            let group = |(first, group): (usize, Vec<Value>)| {
                Value::named_tuple(vec![groupers[first].clone(), Value::list(group)], &["grouper", "list"])
            };
            Ok(Value::list(groups.into_iter().map(group).collect()))
        }
        "batch" => {
            let [size, fill] = args.bind(name, ["linecount", "fill_with"])?;
            let size = usize::try_from(int_or(size, 0, name)?).ok().filter(|size| *size > 0);
            let size = size.ok_or_else(|| Error::new("`batch` needs a size of at least 1"))?;
            run.spend(size.min(1 << 20) * 16)?;
            let items = value.items()?;
            let batch = |batch: &[Value]| {
                let mut batch = batch.to_vec();
                if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
                    batch.resize(size.min(1 << 20), fill.clone());
                }
                Value::list(batch)
            };
            Ok(Value::iter(items.chunks(size).map(batch).collect()))
        }
        "slice" => {
            let [slices, fill] = args.bind(name, ["slices", "fill_with"])?;
            let slices = usize::try_from(int_or(slices, 0, name)?).ok().filter(|slices| *slices > 0);
            let slices = slices.ok_or_else(|| Error::new("`slice` needs a number of at least 1"))?;
            run.spend(slices.saturating_mul(16))?;
            let items = value.items()?;
            let (size, longer) = (items.len() / slices, items.len() % slices);
            let mut rest = &items[..];
            let mut parts = Vec::new();
            for at in 0..slices {
                let (part, after) = rest.split_at(size + usize::from(at < longer));
                rest = after;
                let mut part = part.to_vec();
                let fill = fill.as_ref().filter(|fill| !matches!(fill, Value::None));
                part.extend(fill.filter(|_| at >= longer).cloned());
                parts.push(Value::list(part));
            }
            Ok(Value::iter(parts))
        }
        "filesizeformat" => {
            let [binary] = args.bind(name, ["binary"])?;
            let bytes = match &value {
                Value::Str(text) => parsed_float(&text.text),
                _ => value.as_number(),
            };
            let bytes = bytes.ok_or_else(|| Error::new("`filesizeformat` needs a number"))?;
            Ok(file_size(bytes, binary.is_some_and(|binary| binary.is_true())).into())
        }
        _ => Err(Error::new(format!("the filter `{name}` is not known"))),
    }
}

/// The filters without arguments.
fn plain(run: &mut Run, name: &str, value: Value) -> Result<Value> {
    Ok(match name {
        "length" | "count" => match value.len() {
            Some(length) => Value::int(length),
            None => return Err(Error::new(format!("object of type '{}' has no len()", value.type_name()))),
        },
        "list" => Value::list(value.items()?),
        "first" => match &value {
            Value::Dict(dict) => dict.keys().into_iter().next(),
            _ => value.items()?.into_iter().next(),
        }
        .unwrap_or_else(|| Value::undefined("No first item, sequence was empty.")),
        "last" => match &value {
            Value::Iter(_) => return Err(Error::new("'generator' object is not reversible")),
            _ => value.items()?.pop().unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")),
        },
        "reverse" => match &value {
            Value::Str(text) => like(text, text.text.chars().rev().collect()),
            _ => {
                let mut items = value.items()?;
                items.reverse();
                Value::iter(items)
            }
        },
        "items" => match &value {
            Value::Undefined(_) => Value::iter(Vec::new()),
            Value::Dict(dict) => Value::iter(dict.items()),
            _ => return Err(Error::new("Can only get item pairs from a mapping.")),
        },
        "abs" => match &value {
            Value::Float(number) => Value::Float(number.abs()),
            _ => match value.as_int().and_then(i128::checked_abs) {
                Some(number) => Value::Int(number),
                None => return Err(Error::new(format!("bad operand type for abs(): '{}'", value.type_name()))),
            },
        },
        _ => return of_text(run, name, value),
    })
}

/// The filters without arguments that make text of what they are given.
fn of_text(run: &mut Run, name: &str, value: Value) -> Result<Value> {
    let text = soft(&value);
    Ok(match name {
        "string" => Value::Str(text),
        "safe" => Value::safe(text.text.to_string()),
        "e" | "escape" if text.safe => value,
        "e" | "escape" | "forceescape" => Value::safe(escaped(&text.text)),
        "upper" => like(&text, text.text.to_uppercase()),
        "lower" => like(&text, text.text.to_lowercase()),
        "capitalize" => like(&text, capitalized(&text.text)),
        "title" => {
            let mut out = String::new();
            let mut begins = true;
            for c in text.text.chars() {
                if begins {
                    out.extend(c.to_uppercase())
                } else {
                    out.extend(c.to_lowercase())
                }
                begins = is_space(c) || "-({[<".contains(c);
            }
            out.into()
        }
        "wordcount" => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            Value::int(text.text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count())
        }
        "pprint" => {
            let repr = by_key(&value).repr();
            if repr.chars().count() > 80 {
                return Err(Error::new("`pprint` is not supported for values wider than 80 characters"));
            }
            repr.into()
        }
        "urlencode" => url_encoded(run, &value)?.into(),
        _ => return Err(Error::new(format!("the filter `{name}` is not known"))),
    })
}

/// The value with the keys of its dicts in order, as `pprint` prints them.
fn by_key(value: &Value) -> Value {
    match value {
        Value::Dict(dict) => {
            let mut pairs: Vec<_> = dict.pairs.iter().map(|(key, value)| (key.clone(), by_key(value))).collect();
            pairs.sort_by(|(a, _), (b, _)| a.order(b).ok().flatten().unwrap_or(Ordering::Equal));
            Value::dict(pairs)
        }
        Value::List(list) => Value::list(list.items.iter().map(by_key).collect()),
        Value::Tuple(tuple) => Value::tuple(tuple.items.iter().map(by_key).collect()),
        _ => value.clone(),
    }
}

fn to_json(run: &mut Run, value: &Value, args: CallArgs) -> Result<Value> {
    let [ensure_ascii, indent, separators, sort_keys] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.text.to_string()),
        Some(width) => {
            let width = int_or(Some(width), 0, "tojson")?.clamp(0, 1000);
            Some(" ".repeat(usize::try_from(width).unwrap_or(0)))
        }
    };
    let (item_separator, key_separator) = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some(pair) => match &pair.items()?[..] {
            [Value::Str(item), Value::Str(key)] => (item.text.to_string(), key.text.to_string()),
            _ => return Err(Error::new("`tojson` needs two strings as separators")),
        },
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let style = json::Style {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: is_true(ensure_ascii),
        sort_keys: is_true(sort_keys),
    };
    let indented = style.indent.as_ref().map_or(0, |indent| indent.len().saturating_mul(value.depth()));
    let between = style.item_separator.len() + style.key_separator.len();
    run.read_as(value, indented.saturating_add(between))?;
    let text = json::dumps(value, &style)?;
    run.spend(text.len())?;
    Ok(text.into())
}

fn indent(run: &mut Run, value: &Value, args: CallArgs) -> Result<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let indention = match width {
        Some(Value::Str(text)) => text.text.to_string(),
        width => {
            let width = usize::try_from(int_or(width, 4, "indent")?).unwrap_or(0);
            run.spend(width)?;
            " ".repeat(width)
        }
    };
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (first, blank) = (is_true(first), is_true(blank));
    let text = soft(value);
    let with_end = format!("{}\n", text.text);
    let lines = lines(&with_end, false);
    run.spend(text.text.len() + lines.len().saturating_mul(indention.len()))?;
    let indented = lines.iter().enumerate().map(|(at, line)| {
        let wanted = if at == 0 { first } else { blank || !line.is_empty() };
        if wanted { indention.clone() + line } else { (*line).to_string() }
    });
    let indented = indented.collect::<Vec<_>>().join("\n");
    Ok(like(&text, indented))
}

fn truncate(value: &Value, args: CallArgs) -> Result<Value> {
    let [length, kill_words, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = usize::try_from(int_or(length, 255, "truncate")?).unwrap_or(0);
    let leeway = usize::try_from(int_or(leeway.filter(|l| !matches!(l, Value::None)), 5, "truncate")?).unwrap_or(0);
    let end = optional_str(end, "truncate")?.unwrap_or_else(|| "...".into());
    let end_length = end.chars().count();
    if length < end_length {
        return Err(Error::new(format!("expected length >= {end_length}, got {length}")));
    }
    let text = soft(value);
    if text.text.chars().count() <= length + leeway {
        return Ok(Value::Str(text));
    }
    let cut: String = text.text.chars().take(length - end_length).collect();
    if kill_words.is_some_and(|kill| kill.is_true()) {
        return Ok(like(&text, cut + &end));
    }
    let whole_words = cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words);
    Ok(like(&text, whole_words.to_string() + &end))
}

/// `int(text, base)`, and for base 10 also `int(float(text))`.
fn parsed_int(text: &str, base: u32) -> Option<i128> {
    let trimmed = text.trim_matches(is_space);
    let (negative, digits) = match trimmed.strip_prefix(['-', '+']) {
        Some(digits) => (trimmed.starts_with('-'), digits),
        None => (false, trimmed),
    };
    let prefix = match base {
        16 => ["0x", "0X"],
        8 => ["0o", "0O"],
        2 => ["0b", "0B"],
        _ => ["\0", "\0"],
    };
    let digits = prefix.iter().find_map(|prefix| digits.strip_prefix(prefix)).unwrap_or(digits);
    let plain = !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    let is_base = (2..=36).contains(&base) && plain && !digits.starts_with(['+', '-']);
    let number = is_base.then(|| i128::from_str_radix(&digits.replace('_', ""), base).ok()).flatten();
    let number = number.map(|number| if negative { -number } else { number });
    number.or_else(|| parsed_float(text).filter(|number| number.is_finite()).map(|number| number.trunc() as i128))
}

fn parsed_float(text: &str) -> Option<f64> {
    text.trim_matches(is_space).replace('_', "").parse().ok()
}

fn file_size(bytes: f64, binary: bool) -> String {
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    let prefixes = if binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    if bytes == 1.0 {
        return "1 Byte".into();
    }
    if bytes < base {
        return format!("{} Bytes", bytes.trunc());
    }
    let mut unit = base;
    for prefix in &prefixes[..7] {
        if bytes < unit * base {
            return format!("{:.1} {prefix}", bytes / unit);
        }
        unit *= base;
    }
    format!("{:.1} {}", bytes / unit, prefixes[7])
}

fn url_encoded(run: &mut Run, value: &Value) -> Result<String> {
    let quote = |text: &str, slash_is_safe: bool| {
        let mut out = String::new();
        for byte in text.bytes() {
            let safe = byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) || (slash_is_safe && byte == b'/');
            if safe { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
        }
        out
    };
    let pairs = match value {
        Value::Dict(dict) => dict.items(),
        Value::Str(_) => return Ok(quote(&value.to_text(), true)),
        _ => match value.items() {
            Ok(items) => items,
            Err(_) => return Ok(quote(&value.to_text(), true)),
        },
    };
    let mut parts = Vec::new();
    for pair in pairs {
        run.spend(0)?;
        let [key, value] = <[Value; 2]>::try_from(pair.items()?).map_err(|_| Error::new("`urlencode` needs pairs"))?;
        let form = |value: &Value| quote(&value.to_text(), false).replace("%20", "+");
        parts.push(format!("{}={}", form(&key), form(&value)));
    }
    Ok(parts.join("&"))
}

/// `item`, or what is found in it along `attribute`: names and positions with points between them.
fn by_attribute(item: Value, attribute: Option<&Value>) -> Result<Value> {
    match attribute {
        None | Some(Value::None) => Ok(item),
        Some(Value::Str(path)) => path.text.split('.').try_fold(item, |item, part| {
            let key = if part.chars().all(|c| c.is_ascii_digit()) { part.parse().map(Value::Int).ok() } else { None };
            access::item(&item, &key.unwrap_or_else(|| part.into()))
        }),
        Some(key) => access::item(&item, key),
    }
}

/// What items are compared by.
fn keys(items: &[Value], attribute: Option<&Value>, case_sensitive: Option<Value>) -> Result<Vec<Value>> {
    let case_sensitive = case_sensitive.is_some_and(|value| value.is_true());
    let key = |item: &Value| -> Result<Value> {
        let key = by_attribute(item.clone(), attribute)?;
        Ok(match &key {
            Value::Str(text) if !case_sensitive => text.text.to_lowercase().into(),
            _ => key,
        })
    };
    items.iter().map(key).collect()
}

fn sorted(run: &mut Run, items: Vec<Value>, keys: &[Value], reverse: bool) -> Result<Vec<Value>> {
    run.spend(items.len().saturating_mul(64))?;
    let mut failed = None;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| match keys[*a].order(&keys[*b]) {
        Ok(order) => {
            let order = order.unwrap_or(Ordering::Equal);
            if reverse { order.reverse() } else { order }
        }
        Err(error) => {
            failed = Some(error);
            Ordering::Equal
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(order.into_iter().map(|at| items[at].clone()).collect()),
    }
}

fn map(run: &mut Run, value: Value, args: CallArgs) -> Result<Value> {
    let items = value.items()?;
    let mut mapped = Vec::with_capacity(items.len());
    if args.positional.is_empty() {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let attribute = attribute.ok_or_else(|| Error::new("map requires a filter argument"))?;
        for item in items {
            run.spend(0)?;
            let found = by_attribute(item, Some(&attribute))?;
            let missing = matches!(found, Value::Undefined(_));
            mapped.push(default.clone().filter(|_| missing).unwrap_or(found));
        }
        return Ok(Value::iter(mapped));
    }
    let mut positional = args.positional.into_iter();
    let name = needed_str(positional.next(), "map")?;
    if !is_known(&name) {
        return Err(Error::new(format!("the filter `{name}` is not known")));
    }
    let rest: Vec<Value> = positional.collect();
    for item in items {
        run.spend(0)?;
        mapped.push(apply(run, &name, item, CallArgs { positional: rest.clone(), named: args.named.clone() })?);
    }
    Ok(Value::iter(mapped))
}

fn select(run: &mut Run, name: &str, value: Value, args: CallArgs) -> Result<Value> {
    let mut positional = args.positional.into_iter();
    let attribute = if name.ends_with("attr") {
        Some(positional.next().ok_or_else(|| Error::new("Missing parameter for attribute name"))?)
    } else {
        None
    };
    let test = positional.next().map(|test| needed_str(Some(test), name)).transpose()?;
    if let Some(test) = test.as_ref().filter(|test| !checks::is_known(test)) {
        return Err(Error::new(format!("the test `{test}` is not known")));
    }
    let rest: Vec<Value> = positional.collect();
    let wanted = name.starts_with("select");
    let mut kept = Vec::new();
    for item in value.items()? {
        run.spend(0)?;
        let tested = by_attribute(item.clone(), attribute.as_ref())?;
        let passes = match &test {
            Some(test) => {
                let args = CallArgs { positional: rest.clone(), named: args.named.clone() };
                checks::check(run, test, &tested, args)?
            }
            None => tested.is_true(),
        };
        if passes == wanted {
            kept.push(item);
        }
    }
    Ok(Value::iter(kept))
}
