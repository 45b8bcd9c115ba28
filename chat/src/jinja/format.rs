//! Python's two ways to format: `'%s' % x` and `'{}'.format(x)`.

use super::access;
use super::args::CallArgs;
use super::error::{Error, Result};
use super::eval::Run;
use super::filters::escaped;
use super::python::float_repr;
use super::value::{Text, Value};

/// How a field is laid out.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// The widest field, and the longest precision.
const MAX_WIDTH: usize = 10_000;

/// `text % args`; `mapping` is what was on the right side, where names are looked for.
pub fn percent(run: &mut Run, text: &Text, args: &[Value], mapping: Option<&Value>) -> Result<Value> {
    let mut out = String::new();
    let mut used = 0;
    let mut named = false;
    let mut rest = &*text.text;
    let incomplete = || Error::new("incomplete format");
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut value = None;
        if let Some(after) = rest.strip_prefix('(') {
            let end = after.find(')').ok_or_else(incomplete)?;
            let Some(Value::Dict(dict)) = mapping else { return Err(Error::new("format requires a mapping")) };
            let key = &after[..end];
            value = Some(dict.get_str(key).cloned().ok_or_else(|| Error::new(format!("no value for `{key}`")))?);
            named = true;
            rest = &after[end + 1..];
        }
        let next = |used: &mut usize| {
            *used += 1;
            args.get(*used - 1).cloned().ok_or_else(|| Error::new("not enough arguments for format string"))
        };
        let mut spec = Spec::default();
        while let Some(flag) = rest.chars().next().filter(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                '0' => spec.zero = true,
                _ => spec.alternate = true,
            }
            rest = &rest[1..];
        }
        let mut stated = |text: &str| -> Result<(usize, Option<usize>)> {
            if text.starts_with('*') {
                let width = next(&mut used)?.as_int().and_then(|width| usize::try_from(width).ok());
                return Ok((1, Some(width.ok_or_else(|| Error::new("* wants int"))?)));
            }
            let (digits, _) = split_digits(text);
            Ok((digits.len(), digits.parse().ok()))
        };
        let (length, width) = stated(rest)?;
        spec.width = width.unwrap_or(0);
        rest = &rest[length..];
        if let Some(after) = rest.strip_prefix('.') {
            let (length, precision) = stated(after)?;
            spec.precision = Some(precision.unwrap_or(0));
            rest = &after[length..];
        }
        rest = rest.trim_start_matches(['l', 'h', 'L']);
        let kind = rest.chars().next().ok_or_else(incomplete)?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => next(&mut used)?,
        };
        run.read(&value)?;
        let formatted = converted(&value, kind, spec, text.safe)?;
        run.spend(formatted.len())?;
        out.push_str(&formatted);
    }
    out.push_str(rest);
    let is_single_mapping = matches!(mapping, Some(Value::Dict(_)));
    if !named && used < args.len() && !is_single_mapping {
        return Err(Error::new("not all arguments converted during string formatting"));
    }
    run.spend(out.len())?;
    Ok(Value::Str(Text { text: out.into(), safe: text.safe }))
}

/// A value of `%`-formatting.
fn converted(value: &Value, kind: char, mut spec: Spec, safe: bool) -> Result<String> {
    let right = spec.align.is_none();
    spec.align = spec.align.or(Some('>'));
    let wrong = || Error::new(format!("%{kind} format: a number is required, not {}", value.type_name()));
    match kind {
        's' | 'r' | 'a' => {
            let text = if kind == 's' { value.to_text().to_string() } else { value.repr() };
            let is_safe = matches!(value, Value::Str(text) if text.safe);
            let text = if safe && !is_safe { escaped(&text) } else { text };
            spec.zero = false;
            padded(&cut(&text, spec.precision), &spec)
        }
        'c' => {
            let c = match value.as_int() {
                Some(code) => u32::try_from(code).ok().and_then(char::from_u32),
                None => value.as_str().filter(|text| text.chars().count() == 1).and_then(|text| text.chars().next()),
            };
            padded(&c.ok_or_else(|| Error::new("%c requires int or char"))?.to_string(), &spec)
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let number = match value {
                Value::Float(number) if "diu".contains(kind) => number.trunc() as i128,
                _ => value.as_int().ok_or_else(wrong)?,
            };
            spec.zero &= right;
            spec.kind = Some(if "iu".contains(kind) { 'd' } else { kind });
            let precision = spec.precision.take();
            integer(number, &spec, precision.unwrap_or(0))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            spec.zero &= right;
            spec.kind = Some(kind);
            float(value.as_number().ok_or_else(wrong)?, &spec)
        }
        _ => Err(Error::new(format!("unsupported format character '{kind}'"))),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn cut(text: &str, precision: Option<usize>) -> String {
    precision.map_or_else(|| text.to_string(), |precision| text.chars().take(precision).collect())
}

fn padded(text: &str, spec: &Spec) -> Result<String> {
    if spec.width > MAX_WIDTH || spec.precision.is_some_and(|precision| precision > MAX_WIDTH) {
        return Err(Error::new(format!("a format is wider than {MAX_WIDTH}")));
    }
    let missing = spec.width.saturating_sub(text.chars().count());
    let fill = |count: usize| spec.fill.unwrap_or(' ').to_string().repeat(count);
    Ok(match spec.align {
        Some('>') => fill(missing) + text,
        Some('^') => fill(missing / 2) + text + &fill(missing - missing / 2),
        _ => text.to_string() + &fill(missing),
    })
}

/// A sign and digits, with zeros between them or blanks around them.
fn number(negative: bool, digits: &str, spec: &Spec) -> Result<String> {
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    if spec.zero || spec.align == Some('=') {
        let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
        let inner = Spec {
            fill: Some(fill),
            align: Some('>'),
            width: spec.width.saturating_sub(sign.len()),
            ..Spec::default()
        };
        return Ok(sign.to_string() + &padded(digits, &inner)?);
    }
    padded(&(sign.to_string() + digits), spec)
}

fn grouped(digits: &str, separator: Option<char>) -> String {
    let Some(separator) = separator else { return digits.to_string() };
    let (whole, rest) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
    let mut out = String::new();
    for (at, c) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + rest
}

fn integer(value: i128, spec: &Spec, digits: usize) -> Result<String> {
    let size = value.unsigned_abs();
    let text = match spec.kind {
        Some('x') => format!("{size:x}"),
        Some('X') => format!("{size:X}"),
        Some('o') => format!("{size:o}"),
        Some('b') => format!("{size:b}"),
        _ => grouped(&size.to_string(), spec.grouping),
    };
    let prefix = match spec.kind {
        Some(kind @ ('x' | 'X' | 'o' | 'b')) if spec.alternate => format!("0{kind}"),
        _ => String::new(),
    };
    let zeros = "0".repeat(digits.min(MAX_WIDTH).saturating_sub(text.len()));
    number(value < 0, &(prefix + &zeros + &text), spec)
}

fn float(value: f64, spec: &Spec) -> Result<String> {
    let precision = spec.precision.unwrap_or(6).min(MAX_WIDTH);
    let size = value.abs();
    let kind = spec.kind.unwrap_or('g');
    let digits = match kind {
        _ if size.is_nan() => "nan".into(),
        _ if size.is_infinite() => "inf".into(),
        'f' | 'F' => format!("{size:.precision$}"),
        '%' => format!("{:.precision$}%", size * 100.0),
        'e' | 'E' => exponential(size, precision),
        _ => general(size, precision.max(1), spec.alternate),
    };
    let digits = grouped(&digits, spec.grouping);
    let digits = if kind.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
    number(value.is_sign_negative() && !value.is_nan(), &digits, spec)
}

fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').expect("it has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(size: f64, precision: usize, keep_zeros: bool) -> String {
    let scientific = exponential(size, precision - 1);
    let (digits, exponent) = scientific.split_once('e').expect("it has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    let trimmed = |text: &str| {
        let has_point = text.contains('.') && !keep_zeros;
        if has_point { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text.to_string() }
    };
    if exponent < -4 || exponent >= i32::try_from(precision).unwrap_or(i32::MAX) {
        return format!("{}{}", trimmed(digits), &scientific[digits.len()..]);
    }
    let places = usize::try_from(i32::try_from(precision).unwrap_or(0) - 1 - exponent).unwrap_or(0);
    trimmed(&format!("{size:.places$}"))
}

/// `text.format(*args, **named)`.
pub fn braces(run: &mut Run, text: &Text, args: &CallArgs) -> Result<Value> {
    let mut automatic = 0;
    let out = fields(run, &text.text, text.safe, args, &mut automatic, 0)?;
    run.spend(out.len())?;
    Ok(Value::Str(Text { text: out.into(), safe: text.safe }))
}

fn fields(
    run: &mut Run,
    text: &str,
    safe: bool,
    args: &CallArgs,
    automatic: &mut usize,
    level: usize,
) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" || level > 1 {
            return Err(Error::new("Single '}' encountered in format string"));
        }
        let mut depth = 1;
        let end = rest.find(|c: char| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let end = end.ok_or_else(|| Error::new("expected '}' before end of string"))?;
        let field = &rest[..end];
        rest = &rest[end + 1..];
        let (head, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = head.split_once('!').unwrap_or((head, ""));
        let value = looked_up(name, args, automatic)?;
        run.read(&value)?;
        let value = match conversion {
            "" => value,
            "s" => value.to_text().to_string().into(),
            "r" | "a" => value.repr().into(),
            _ => return Err(Error::new(format!("unknown conversion `{conversion}`"))),
        };
        let spec = fields(run, spec, false, args, automatic, level + 1)?;
        let is_safe = matches!(&value, Value::Str(text) if text.safe);
        let formatted = with_spec(&value, &spec)?;
        run.spend(formatted.len())?;
        out.push_str(&if safe && !is_safe { escaped(&formatted) } else { formatted });
    }
    Ok(out + rest)
}

/// The value of a field's name: an argument, and attributes and items of it.
fn looked_up(name: &str, args: &CallArgs, automatic: &mut usize) -> Result<Value> {
    let (first, mut path) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
    let mut value = if first.is_empty() || first.chars().all(|c| c.is_ascii_digit()) {
        let at = first.parse().unwrap_or(*automatic);
        *automatic += usize::from(first.is_empty());
        args.positional.get(at).cloned().ok_or_else(|| Error::new("a replacement index is out of range"))?
    } else {
        let found = args.named.iter().find(|(name, _)| name == first);
        found.map(|(_, value)| value.clone()).ok_or_else(|| Error::new(format!("no value for `{first}`")))?
    };
    while !path.is_empty() {
        if let Some(rest) = path.strip_prefix('.') {
            let (attribute, after) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
            value = access::attribute(&value, attribute)?;
            path = after;
        } else {
            let end = path.find(']').ok_or_else(|| Error::new("missing ']' in format string"))?;
            let key = &path[1..end];
            let key = key.parse().map_or_else(|_| Value::from(key), Value::Int);
            value = access::item(&value, &key)?;
            path = &path[end + 1..];
        }
    }
    Ok(value)
}

/// `format(value, spec)`.
fn with_spec(value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return Ok(value.to_text().to_string());
    }
    let wrong = || Error::new(format!("`{spec}` is not a format of a {}", value.type_name()));
    let parsed = parse_spec(spec).ok_or_else(wrong)?;
    match (value, parsed.kind) {
        (Value::Str(text), None | Some('s')) => padded(&cut(&text.text, parsed.precision), &parsed),
        (Value::Float(_), None) if parsed.precision.is_none() => {
            let text = float_repr(value.as_number().unwrap_or(0.0).abs());
            let negative = value.as_number().is_some_and(f64::is_sign_negative);
            number(negative, &grouped(&text, parsed.grouping), &right_aligned(parsed))
        }
        (_, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) | (Value::Float(_), None) => {
            float(value.as_number().ok_or_else(wrong)?, &right_aligned(parsed))
        }
        (_, Some('c')) => {
            let c = value.as_int().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
            padded(&c.ok_or_else(wrong)?.to_string(), &parsed)
        }
        (_, None | Some('d' | 'x' | 'X' | 'o' | 'b')) => {
            integer(value.as_int().ok_or_else(wrong)?, &right_aligned(parsed), 0)
        }
        _ => Err(wrong()),
    }
}

fn right_aligned(spec: Spec) -> Spec {
    Spec { align: spec.align.or(Some('>')), ..spec }
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`.
fn parse_spec(text: &str) -> Option<Spec> {
    let mut spec = Spec::default();
    let mut rest = text;
    let is_align = |c: &char| "<>=^".contains(*c);
    let mut chars = rest.chars();
    let (first, second) = (chars.next(), chars.next());
    if let Some(align) = second.filter(is_align) {
        spec.fill = first;
        spec.align = Some(align);
        rest = chars.as_str();
    } else if let Some(align) = first.filter(is_align) {
        spec.align = Some(align);
        rest = &rest[1..];
    }
    let mut take = |allowed: &str| {
        let c = rest.chars().next().filter(|c| allowed.contains(*c))?;
        rest = &rest[1..];
        Some(c)
    };
    spec.sign = take("+- ");
    spec.alternate = take("#").is_some();
    spec.zero = take("0").is_some() && spec.align.is_none();
    let (width, after) = split_digits(rest);
    spec.width = if width.is_empty() { 0 } else { width.parse().ok()? };
    rest = after;
    if let Some(separator) = rest.chars().next().filter(|c| ",_".contains(*c)) {
        spec.grouping = Some(separator);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        let (precision, after) = split_digits(after);
        spec.precision = Some(precision.parse().ok()?);
        rest = after;
    }
    let mut kinds = rest.chars();
    spec.kind = kinds.next();
    kinds.next().is_none().then_some(spec)
}
