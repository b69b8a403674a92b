//! Lengths of time as arguments, such as `90s` or `2m`: one form for all of them, which is also that of the service's settings.

use std::time::Duration;

use jiff::SignedDuration;

/// Nothing is waited for longer.
const LONGEST: Duration = Duration::from_hours(24);

/// From nothing to a day.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(format!("a number needs its unit, such as \"{text}s\" for seconds"));
    }
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "must be a time from 0s to 24h, such as \"90s\" or \"2m\"".to_owned())
}

/// The same, but nothing is no time to do something in.
pub(crate) fn parse_some(text: &str) -> Result<Duration, String> {
    parse(text).and_then(|time| if time.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(time) })
}

/// As it would be typed.
pub(crate) fn told(duration: Duration) -> String {
    let signed = SignedDuration::try_from(duration).unwrap_or_default();
    format!("{signed:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_told_as_people_write_them() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("2m", 120), ("24h", 86_400)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "2", "-1s", "25h", "soon"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("10").is_err_and(|told| told.contains("\"10s\"")));
        assert!(parse_some("0s").is_err() && parse_some("1s").is_ok());
        assert_eq!(told(Duration::from_secs(150)), "2m 30s");
    }
}
