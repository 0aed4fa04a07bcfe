use super::*;

const INT4: Kind = Kind::Integer { least: i32::MIN as i64, most: i32::MAX as i64 };
const TIMESTAMP: Kind = Kind::Timestamp { digits: 6, zone: false };

fn written(kind: &Kind, value: Stored<'_>) -> Result<String, Bad> {
    let mut out = String::new();
    kind.write(value, false, &mut out).map(|_| out)
}

fn text(text: &str) -> Stored<'_> {
    Stored::Text(text.as_bytes())
}

#[test]
fn values_become_what_the_column_takes() {
    let seed = Kind::Numeric(Some((15, 4)));
    for (kind, value, out) in [
        (&Kind::Bool, Stored::Integer(1), "t"),
        (&Kind::Bool, text("FALSE"), "f"),
        (&Kind::Bool, Stored::Real(0.0), "f"),
        (&INT4, Stored::Integer(-5), "-5"),
        (&INT4, Stored::Real(5.0), "5"),
        (&INT4, text("1e3"), "1000"),
        (&seed, Stored::Real(0.1), "0.1"),
        (&seed, Stored::Integer(99_999_999_999), "99999999999"),
        (&Kind::Numeric(None), Stored::Integer(9_007_199_254_740_993), "9007199254740993"),
        (&Kind::Numeric(None), text("12.50"), "12.5"),
        (&Kind::Numeric(None), Stored::Real(-0.0), "0"),
        (&Kind::Float8, Stored::Real(-0.0), "-0.0"),
        (&Kind::Float8, Stored::Real(f64::INFINITY), "Infinity"),
        (&Kind::Float4, Stored::Real(0.5), "0.5"),
        (&Kind::Text(Some(2)), text("éé"), "éé"),
        (&Kind::Text(None), Stored::Integer(7), "7"),
        (&Kind::Padded(Some(2)), text("a    "), "a"),
        (&TIMESTAMP, text("2026-11-22T19:09:20.5+02:00"), "2026-11-22 17:09:20.5"),
        (&TIMESTAMP, Stored::Integer(1_795_367_360), "2026-11-22 17:09:20"),
        (&Kind::Date, text("2026-11-22"), "2026-11-22"),
        (&Kind::Time, text("17:09:20.250"), "17:09:20.25"),
        (&Kind::Json, text("{\"b\":1, \"b\":\"\\u0000\"}"), "{\"b\":1, \"b\":\"\\u0000\"}"),
        (&Kind::Jsonb, Stored::Real(1.5), "1.5"),
        (&Kind::Uuid, text("0192F0C12B3C7ABC8DEF0123456789AB"), "0192f0c1-2b3c-7abc-8def-0123456789ab"),
        (&Kind::Uuid, Stored::Blob(&[0xab; 16]), "abababab-abab-abab-abab-abababababab"),
        (&Kind::Bytea, Stored::Blob(&[0, 255]), "\\x00ff"),
        (&Kind::Bytea, text("a"), "\\x61"),
    ] {
        assert_eq!(written(kind, value).as_deref(), Ok(out), "{kind:?} {value:?}");
    }
}

/// V-1, V-5, V-7, V-9, T-2: what is no such value is named, never guessed.
#[test]
fn what_a_column_cannot_hold_is_named() {
    let seed = Kind::Numeric(Some((15, 4)));
    for (kind, value, why) in [
        (&Kind::Bool, Stored::Integer(2), "neither"),
        (&Kind::Bool, text("yes"), "neither"),
        (&INT4, Stored::Integer(3_000_000_000), "too large"),
        (&INT4, Stored::Real(5.5), "no whole"),
        (&INT4, Stored::Real(1e300), "no whole"),
        (&seed, Stored::Integer(100_000_000_000), "too large"),
        (&seed, Stored::Real(0.00004), "4 digits"),
        (&seed, text("abc"), "no number"),
        (&seed, text("NaN"), "no number"),
        (&Kind::Numeric(None), Stored::Real(f64::INFINITY), "not finite"),
        (&Kind::Float8, Stored::Integer(9_007_199_254_740_993), "more digits"),
        (&Kind::Float4, Stored::Real(0.1), "real"),
        (&Kind::Text(Some(2)), text("abc"), "2 characters"),
        (&Kind::Text(None), Stored::Text(b"\xff"), "UTF-8"),
        (&Kind::Text(None), text("a\0b"), "NUL"),
        (&Kind::Text(None), Stored::Blob(b"a"), "blob"),
        (&TIMESTAMP, text("2026-11-22"), "no time"),
        (&TIMESTAMP, Stored::Integer(20_261_122), "no time"),
        (&TIMESTAMP, Stored::Blob(b"2026-11-22 17:09:20"), "no time"),
        (&Kind::Timestamp { digits: 0, zone: false }, text("2026-11-22 17:09:20.5"), "0 digits"),
        (&Kind::Date, text("2026-02-30"), "no date"),
        (&Kind::Json, text("{'a':1}"), "not JSON"),
        (&Kind::Jsonb, text("\"\\u0000\""), "u0000"),
        (&Kind::Uuid, text("0192f0c1-2b3c-7abc-8def-0123456789a"), "no UUID"),
        (&Kind::Bytea, Stored::Integer(1), "no bytes"),
        (&Kind::Other("inet".into()), text("::1"), "does not know"),
    ] {
        let said = written(kind, value).expect_err(&format!("{kind:?} {value:?}"));
        assert!(said.contains(why), "{kind:?} {value:?}: {said}");
    }
}

#[test]
fn rounding_is_asked_for() {
    let rounded = |kind: &Kind, value| {
        let mut out = String::new();
        kind.write(value, true, &mut out).map(|converted| (converted, out))
    };
    let some = |text: &str| Ok((Some("rounded"), text.to_owned()));
    assert_eq!(rounded(&Kind::Numeric(Some((5, 2))), Stored::Real(0.8765)), some("0.88"));
    assert!(rounded(&Kind::Numeric(Some((5, 2))), Stored::Real(999.999)).is_err(), "rounded up it is too large");
    assert_eq!(rounded(&Kind::Float4, Stored::Real(0.1)), some("0.10000000149011612"));
    let second = Kind::Timestamp { digits: 0, zone: false };
    assert_eq!(rounded(&second, text("2026-11-22 17:09:20.5")), some("2026-11-22 17:09:21"));
}

#[test]
fn what_was_sent_and_what_comes_back_have_one_form() {
    let form = |kind: &Kind, text: &str| {
        let mut out = String::new();
        kind.canonical(text, &mut out).map(|()| out)
    };
    for (kind, sent, printed) in [
        (&Kind::Numeric(None), "1e20", "100000000000000000000"),
        (&Kind::Numeric(Some((15, 4))), "5", "5.0000"),
        (&Kind::Float8, "1e300", "1e+300"),
        (&Kind::Float8, "5.0", "5"),
        (&Kind::Float4, "0.10000000149011612", "0.1"),
        (&Kind::Padded(Some(3)), "a", "a  "),
        (&Kind::Jsonb, "{\"b\":1,\"a\":2}", "{\"a\": 2, \"b\": 1}"),
    ] {
        assert_eq!(form(kind, sent), form(kind, printed), "{sent}");
        assert!(form(kind, sent).is_some());
    }
    assert_ne!(form(&Kind::Float8, "0"), form(&Kind::Float8, "-0"));
    assert_ne!(form(&Kind::Text(None), "a"), form(&Kind::Text(None), "a "));
    assert_eq!(form(&Kind::Numeric(None), "NaN"), None);
}
