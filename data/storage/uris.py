"""URIs as users write them."""

from urllib.parse import parse_qsl, urlsplit

_SECRET = ("key", "secret", "token", "password", "credential", "sas", "sig")
"""Parts of the names of options that hold a secret."""


def refuse_credentials(uri: str) -> None:
    """Raises ValueError, which does not quote it, if a URI holds a secret: it would be printed, and kept in runs."""
    if "://" not in uri:
        return
    scheme = uri.partition("://")[0]
    try:
        parts = urlsplit(uri)
        options = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError as error:
        raise ValueError(f"a URI of {scheme} that cannot be read ({error})") from error
    is_key = scheme == "s3" and parts.username not in (None, "anonymous")
    if parts.password is not None or is_key or any(part in name for name in options for part in _SECRET):
        raise ValueError(
            f"a URI of {scheme} holds credentials; leave them out of it, and give them by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3)"
        )
