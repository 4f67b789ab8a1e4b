//! The examples of the standards: tokens that others have signed.

use mainstay::auth::jwt::jws::Jws;
use mainstay::auth::jwt::keyset::{KeySet, Signed};
use serde_json::{Value, json};

fn check(key: Value, token: &str) {
    let (set, left_out) = KeySet::read(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
    assert_eq!((set.len(), left_out.len()), (1, 0));
    let jws = Jws::parse(token.as_bytes()).unwrap();
    assert_eq!(set.verify(&jws), Signed::Yes);
}

/// What the first examples of RFC 7515 sign.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

#[test]
fn rfc_7515_a_2_rs256() {
    let key = json!({
        "kty": "RSA",
        "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        "e": "AQAB",
    });
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    check(key, &format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{signature}"));
}

#[test]
fn rfc_7515_a_3_es256() {
    let key = json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    check(key, &format!("eyJhbGciOiJFUzI1NiJ9.{JOE}.{signature}"));
}

#[test]
fn rfc_8037_a_4_eddsa() {
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    check(
        key,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    );
}

/// RFC 7515, A.1 is signed with a secret, A.5 not at all.
#[test]
fn what_the_standard_allows_and_this_api_does_not() {
    for header in ["eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJub25lIn0"] {
        let token = format!("{header}.{JOE}.");
        let refused = Jws::parse(token.as_bytes()).unwrap_err();
        assert_eq!(refused.detail, "the token's alg is not one of EdDSA, ES256, RS256");
    }
}
