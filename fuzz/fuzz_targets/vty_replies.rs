//! Bytes from a vty socket, however they are cut: never a panic, and the cuts make no difference.
#![no_main]

use cosmolet::frr::vty::{ParseError, Reply, ReplyParser, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&step, stream)) = data.split_first() else { return };
    let whole = in_pieces(stream, stream.len().max(1));
    let pieces = in_pieces(stream, usize::from(step).max(1));
    assert_eq!(whole, pieces, "the cuts of a stream changed its replies");
    if let Ok(replies) = parse(stream) {
        assert_eq!(replies, whole.0);
        replies.iter().for_each(|reply| assert!(reply.summary().chars().count() <= 200));
    }
});

/// The replies up to the first error.
fn in_pieces(stream: &[u8], step: usize) -> (Vec<Reply>, Option<ParseError>) {
    let mut parser = ReplyParser::new();
    let mut replies = Vec::new();
    for piece in stream.chunks(step) {
        parser.feed(piece);
        loop {
            match parser.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}
