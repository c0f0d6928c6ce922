"""Signed manifests in the layout of OpenSSF model signing: a Sigstore bundle with a DSSE envelope around an in-toto statement
that names every file with its SHA-256. Signed with an Ed25519 key that never leaves the machine of who signs; no network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import InvalidInput
from tunesmith.schemas.registry import SignatureCheck

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURES = "signatures"
"""Folder in the registry with one bundle a version."""
FILE_NAME = "model.sig"
"""Name of the bundle in an export."""
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MAX_BUNDLE_BYTES = 16 * 1024**2


def sign(title: str, files: Mapping[str, str], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The bundle for files (path → SHA-256)."""
    payload = json.dumps(statement(title, files), sort_keys=True, separators=(",", ":")).encode()
    signature = key.sign(_to_sign(payload))
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": key_id(key.public_key())}],
        },
    }


def statement(title: str, files: Mapping[str, str]) -> dict[str, Any]:
    """What is signed. The subject's digest is that of all files' digests, in the order of their names."""
    whole = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files))).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": title, "digest": {"sha256": whole}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
            "resources": [{"name": name, "algorithm": "sha256", "digest": files[name]} for name in sorted(files)],
        },
    }


def check_manifest(bundle: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Whether a bundle names exactly these files; its key's id. Raises `InvalidInput` for anything else."""
    payload, _, named = _opened(bundle)
    told = payload.get("predicate", {}).get("resources", []) if isinstance(payload.get("predicate"), dict) else []
    found = {item.get("name"): item.get("digest") for item in told if isinstance(item, dict)}
    if payload.get("predicateType") != PREDICATE_TYPE or found != dict(files):
        raise InvalidInput("The manifest does not name the files of this version.", hint="Sign this very version.")
    return named


def check(bundle: Mapping[str, Any], files: Mapping[str, str], key: Ed25519PublicKey) -> SignatureCheck:
    """Whether the bundle was signed with `key` and names exactly these files."""
    from cryptography.exceptions import InvalidSignature

    try:
        named = check_manifest(bundle, files)
        _, signature, _ = _opened(bundle)
        key.verify(signature, _to_sign(base64.b64decode(bundle["dsseEnvelope"]["payload"])))
    except InvalidInput as error:
        return SignatureCheck(ok=False, message=error.message)
    except InvalidSignature:
        return SignatureCheck(ok=False, message="It was not signed with this key, or was changed since.", key_id=named)
    return SignatureCheck(
        ok=True, message=f"Signed with this key; {len(files)} files as they were signed.", key_id=named
    )


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key as PEM without a password. Raises `InvalidInput`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        raise _no_key(path) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 key as PEM. Raises `InvalidInput`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, TypeError):
        raise _no_key(path) from None
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path)
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the public key's DER form."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _no_key(path: Path) -> InvalidInput:
    return InvalidInput(
        f"{path} is no Ed25519 key in PEM form without a password.",
        hint="Make one with: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub",
    )


def _opened(bundle: Mapping[str, Any]) -> tuple[dict[str, Any], bytes, str]:
    """`(statement, signature, key id)`. Raises `InvalidInput` for what is no such bundle."""
    try:
        envelope = bundle["dsseEnvelope"]
        payload = json.loads(base64.b64decode(envelope["payload"], validate=True))
        first = envelope["signatures"][0]
        signature, named = base64.b64decode(first["sig"], validate=True), str(first.get("keyid", ""))
        is_ours = envelope["payloadType"] == PAYLOAD_TYPE and payload["_type"] == STATEMENT_TYPE
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        is_ours, payload, signature, named = False, {}, b"", ""
    if not is_ours:
        raise InvalidInput("This is no signed manifest.", hint="Make one with: tunesmith registry sign")
    return payload, signature, named


def _to_sign(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
