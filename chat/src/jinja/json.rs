//! `json.dumps`, which is the filter `tojson`.

use super::error::{Error, Result};
use super::python::float_repr;
use super::value::Value;

/// How JSON is written.
pub struct Style {
    /// What a level is indented by; `None` for one line.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub ensure_ascii: bool,
    pub sort_keys: bool,
}

/// `value` as JSON.
///
/// # Errors
/// For what JSON has no form for.
pub fn dumps(value: &Value, style: &Style) -> Result<String> {
    let mut out = String::new();
    write(&mut out, value, style, 0)?;
    Ok(out)
}

fn write(out: &mut String, value: &Value, style: &Style, level: usize) -> Result<()> {
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(number) => out.push_str(&number.to_string()),
        Value::Float(number) => out.push_str(&float(*number)),
        Value::Str(text) => string(out, &text.text, style.ensure_ascii),
        Value::List(_) | Value::Tuple(_) => {
            let items = value.as_sequence().unwrap_or_default();
            if items.is_empty() {
                out.push_str("[]");
                return Ok(());
            }
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                separate(out, style, at, level + 1);
                write(out, item, style, level + 1)?;
            }
            end(out, style, level);
            out.push(']');
        }
        Value::Dict(dict) => {
            if dict.pairs.is_empty() {
                out.push_str("{}");
                return Ok(());
            }
            let mut pairs: Vec<_> = dict.pairs.iter().collect();
            if style.sort_keys {
                let mut failed = None;
                pairs.sort_by(|(a, _), (b, _)| match a.order(b) {
                    Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
                    Err(error) => {
                        failed = Some(error);
                        std::cmp::Ordering::Equal
                    }
                });
                if let Some(error) = failed {
                    return Err(error);
                }
            }
            out.push('{');
            for (at, (key, value)) in pairs.into_iter().enumerate() {
                separate(out, style, at, level + 1);
                let key = match key {
                    Value::Str(text) => text.text.to_string(),
                    Value::None => "null".into(),
                    Value::Bool(value) => if *value { "true" } else { "false" }.into(),
                    Value::Int(number) => number.to_string(),
                    Value::Float(number) => float(*number),
                    _ => return Err(Error::new(format!("a JSON key cannot be a {}", key.type_name()))),
                };
                string(out, &key, style.ensure_ascii);
                out.push_str(&style.key_separator);
                write(out, value, style, level + 1)?;
            }
            end(out, style, level);
            out.push('}');
        }
        _ => return Err(Error::new(format!("Object of type {} is not JSON serializable", value.type_name()))),
    }
    Ok(())
}

fn separate(out: &mut String, style: &Style, at: usize, level: usize) {
    if at > 0 {
        out.push_str(&style.item_separator);
    }
    end(out, style, level);
}

fn end(out: &mut String, style: &Style, level: usize) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        (0..level).for_each(|_| out.push_str(indent));
    }
}

fn float(number: f64) -> String {
    match float_repr(number).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        other => other.into(),
    }
}

fn string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && (c > '~')) => {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
