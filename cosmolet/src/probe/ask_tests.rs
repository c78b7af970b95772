use super::*;

#[test]
fn the_health_request_is_grpcs() {
    assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
    assert_eq!(&health_request("a.b")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'b']);
    let long = health_request(&"x".repeat(300));
    assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    assert_eq!(long.len(), 5 + 3 + 300);
}

#[test]
fn only_serving_is_serving() {
    assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
    for other in [&[][..], &[0, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8, 2], &[1, 0, 0, 0, 2, 8, 1], &[8, 1]] {
        assert!(!is_serving(other), "{other:?}");
    }
}
