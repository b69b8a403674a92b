use super::super::fakes::Made;
use super::*;

#[test]
fn a_head_is_read_as_it_was_written_and_anything_else_is_refused() {
    let made = Made::closed('a', 3);
    for mac in [None, Some(vec![7; 32])] {
        let head = Head { mac, ..made.head(true) };
        let row = head.record(WriteId::random().unwrap());
        assert_eq!((row.id.kind, row.id.id.as_str()), (KIND, made.id.as_str()));
        assert_eq!(Head::from_record(&row), Ok(head.clone()));
        assert_eq!(Head::from_json(&head.to_json()), Ok(head.clone()));

        let edit = |edit: fn(&mut OperationRow)| {
            let mut row = row.clone();
            edit(&mut row);
            Head::from_record(&row)
        };
        assert_eq!(edit(|row| row.body[0] = 2), Err(BadHead::Newer));
        assert_eq!(edit(|row| row.body.clear()), Err(BadHead::Malformed));
        assert_eq!(edit(|row| row.body.truncate(9)), Err(BadHead::Malformed));
        assert_eq!(edit(|row| row.id.id = "x".to_owned()), Err(BadHead::Malformed));
        let json = head.to_json();
        for (from, to) in
            [("\"seq\"", "\"sequence\""), ("true", "1"), ("aaaa", "AAAA"), ("{", "["), ("\"hash\":\"", "\"hash\":\"0")]
        {
            let edited = json.replacen(from, to, 1);
            assert_ne!(edited, json);
            assert_eq!(Head::from_json(&edited), Err(BadHead::Malformed), "{edited}");
        }
    }
}
