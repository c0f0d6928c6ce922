"""Mail with links, where a mail server is set up. The slow part happens in a thread of its own, after the answer."""

from __future__ import annotations

import logging
import smtplib
import ssl
import threading
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

from tunesmith.features.accounts.doorkeeper import Doorkeeper
from tunesmith.features.accounts.tables import UserRow
from tunesmith.features.accounts.throttle import REGISTRATIONS
from tunesmith.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S = 20


def invitation(settings: Settings, email: str | None, link: str) -> bool:
    """Whether it is on its way."""
    text = f"You are invited to Tunesmith. Make your account here:\n\n{link}\n\nThe link works once."
    return _send(settings, email, "Your invitation to Tunesmith", text)


def password(settings: Settings, user: UserRow, link: str) -> bool:
    """Whether it is on its way."""
    text = f"Choose a new password for {user.username} here:\n\n{link}\n\nThe link works once, for a day."
    return _send(settings, user.email, "Your new password for Tunesmith", text)


def send_password_link(door: Doorkeeper, name: str) -> None:
    """For somebody who has forgotten theirs; does nothing, in the same time, for a name that does not exist. Raises
    `TooMany` after ten within a minute."""
    door.count_try((REGISTRATIONS, door.here("forgot")))
    door.database.check()
    threading.Thread(target=_send_password_link, args=(door, name), daemon=True).start()


def _send_password_link(door: Doorkeeper, name: str) -> None:
    if door.settings.smtp_url is None:
        log.warning(
            "somebody asks for a new password, and no mail is set up: tunesmith users reset-password gives a link"
        )
        return
    with door.database.unit_of_work() as session:
        accounts = door.accounts(session)
        user = accounts.users.named(name)
        if user is None or user.disabled or not user.email or not door.may_mail(user.id):
            return
        made = accounts.password_link(user, ends_others=False)  # else whoever knows the name could end each of them
    password(door.settings, user, door.link("reset-password", token=made.token))


def _send(settings: Settings, to: str | None, subject: str, text: str) -> bool:
    if settings.smtp_url is None or not to:
        return False
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = settings.mail_from, to, subject
    message.set_content(text)
    url = settings.smtp_url.get_secret_value()
    threading.Thread(target=_deliver, args=(url, message), daemon=True).start()
    return True


def _deliver(url: str, message: EmailMessage) -> None:
    """STARTTLS wherever the server offers it; a password never goes out without."""
    parts = urlsplit(url)
    host, context = parts.hostname or "localhost", ssl.create_default_context()
    try:
        if parts.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, parts.port or 465, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(host, parts.port or 25, timeout=TIMEOUT_S)
        with server:
            if parts.scheme != "smtps" and server.has_extn("starttls"):
                server.starttls(context=context)
            elif parts.username and parts.scheme != "smtps":
                raise smtplib.SMTPNotSupportedError("the mail server offers no encryption, so the password is not sent")
            if parts.username:
                server.login(unquote(parts.username), unquote(parts.password or ""))
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        log.error("mail could not be sent through %s: %s", host, error)
