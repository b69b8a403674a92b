use std::cell::RefCell;

use super::*;

/// Rows from 1 to `last`, in pages of at most `longest`. Kept is what a divisor divides; how many rows were asked for each time.
async fn list(
    last: u32,
    longest: usize,
    divisor: u32,
    limit: usize,
    after: Option<u32>,
) -> (Page<u32, u32>, Vec<usize>) {
    let asked = RefCell::new(Vec::new());
    let query = async |after: Option<u32>, limit: usize| {
        asked.borrow_mut().push(limit);
        let rows: Vec<_> = (after.unwrap_or(0) + 1..=last).take(limit.min(longest)).collect();
        let next = rows.last().copied().filter(|row| *row < last).or(after.filter(|_| longest == 0));
        Ok(Page { rows, next })
    };
    let keep = |row: u32| row.is_multiple_of(divisor).then_some(row);
    let page = filtered(limit, after, |row| *row, query, keep).await.unwrap();
    (page, asked.into_inner())
}

#[tokio::test]
async fn a_list_shows_everything_that_is_wanted_once_however_pages_end() {
    for longest in [1, 7, 1_000] {
        for (divisor, limit) in [(1, 1), (1, 40), (3, 1), (3, 7), (50, 1), (50, 3), (99, 2), (1_000, 5)] {
            let (mut shown, mut after) = (Vec::new(), None);
            loop {
                let (page, _) = list(130, longest, divisor, limit, after).await;
                assert!(page.rows.len() <= limit);
                shown.extend(page.rows);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            let wanted: Vec<_> = (1..=130).filter(|row| row % divisor == 0).collect();
            assert_eq!(shown, wanted, "{longest} {divisor} {limit}");
        }
    }
}

#[tokio::test]
async fn what_is_wanted_from_the_first_row_on_is_read_and_nothing_else() {
    for limit in [1, 30, 1_000] {
        let (page, asked) = list(5_000, 5_000, 1, limit, None).await;
        assert_eq!((page.rows.len(), page.next, asked), (limit, Some(limit as u32), vec![limit]));
    }
}

/// One at a time, where nothing is wanted, it would be a thousand queries.
#[tokio::test]
async fn a_list_of_nothing_ends_after_a_bounded_number_of_rows_and_of_queries() {
    for limit in [1, 100, 1_000] {
        let (page, asked) = list(5_000, 5_000, 9_999, limit, None).await;
        assert_eq!((page.rows.len(), page.next), (0, Some(1_000)));
        assert!(asked.len() <= 11 && asked[1..].iter().all(|rows| *rows <= LIST_PAGE.max(limit)), "{asked:?}");
    }
    let (page, asked) = list(5_000, 3, 9_999, 10, None).await;
    assert_eq!((page.next, asked.len()), (Some(90), MAX_LIST_QUERIES));
    // Pages of nothing but what the backend leaves out.
    let (page, asked) = list(5_000, 0, 1, 10, Some(7)).await;
    assert_eq!((page.rows.len(), page.next, asked.len()), (0, Some(7), MAX_LIST_QUERIES));
}
