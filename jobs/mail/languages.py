"""The words by which mail programs announce a quote, a forward or a signature, in the languages they speak.

Regular expressions are written so that each alternative takes constant time per place it is tried at.
"""

from __future__ import annotations

HEADER_NAMES = {
    "from": (
        *("From", "Von", "De", "Da", "Van", "Från", "Fra", "Lähettäjä", "Od", "От", "От кого", "Kimden"),
        *("差出人", "发件人", "發件人", "보낸 사람"),
    ),
    "sent": (
        *("Sent", "Gesendet", "Envoyé", "Enviado", "Enviado el", "Enviada em", "Inviato", "Verzonden", "Skickat"),
        *("Sendt", "Lähetetty", "Wysłano", "Отправлено", "Gönderildi", "送信日時", "发送时间", "寄件日期", "보낸 날짜"),
    ),
    "date": ("Date", "Datum", "Fecha", "Data", "Dato", "Päivämäärä", "Дата", "Tarih", "日付", "日期", "날짜"),
    "to": (
        *("To", "An", "À", "A", "Para", "Aan", "Till", "Til", "Vastaanottaja", "Do", "Кому", "Kime"),
        *("宛先", "收件人", "받는 사람"),
    ),
    "cc": ("Cc", "Kopie", "Kopia", "Copie", "Копия", "抄送", "참조"),
    "subject": (
        *("Subject", "Betreff", "Objet", "Asunto", "Assunto", "Oggetto", "Onderwerp", "Ämne", "Emne", "Aihe"),
        *("Temat", "Тема", "Konu", "件名", "主题", "主旨", "제목"),
    ),
}
"""Names of the header lines that mail programs put above the mail that they quote."""

ORIGINAL_MESSAGE = (
    *(r"original (?:message|mail|e-?mail|appointment)", "reply message", "ursprüngliche (?:nachricht|mail)"),
    *("original-?nachricht", "message d['’]origine", "message original", "mensaje original", "mensagem original"),
    *("messaggio originale", "oorspronkelijk bericht", "ursprungligt meddelande", "oprindelig meddelelse"),
    *("opprinnelig melding", "alkuperäinen viesti", "(?:oryginalna|pierwotna) wiadomość", "исходное сообщение"),
    *("original ileti", "原始邮件", "原始郵件", "元のメッセージ", "원본 메시지"),
)
"""What stands between dashes above a quoted mail."""

FORWARDED_MESSAGE = (
    *("forwarded (?:message|by)", "begin forwarded", "weitergeleitete nachricht", "message transf[ée]r[ée]"),
    *("mensaje reenviado", "mensagem encaminhada", "messaggio inoltrato", "doorgestuurd bericht", "vidarebefordrat"),
    *("videresendt", "пересылаемое сообщение", "转发"),
)

FORWARD_PREFIXES = ("fwd?", "wg", "tr", "rv", "enc", "i", "vs", "vb", "doorst", "пересл")
"""What a Subject begins with, before its colon, where a mail is forwarded."""

WROTE = (
    *("wrote", "writes", "written", "said", "says", "typed", "schrieb", "geschrieben", "écrit", "écrivait"),
    *("escribió", "escreveu", "scritto", "scrisse", "schreef", "geschreven", "skrev", "kirjoitti", "napisał"),
    *("pisze", "napsal", "написал", "пишет", "yazdı", "έγραψε", "写道", "寫道", "のメール", "書きました", "작성"),
)
"""Verbs of an attribution, "On … somebody wrote:", in lower case."""

OPENINGS = (
    r"(?:on|at|am|le|el|il|op|den|em|dne|dnia|w dniu|quoting|in (?:article|message|a message)|thus spake)\b",
    r"\*",
    r"(?:mon|tue|wed|thu|fri|sat|sun|lun|mar|mer|jeu|ven|sam|dim|mo|di|mi|do|fr|sa|so)[a-z]{0,6}[,. ]",
    r"(?:пн|вт|ср|чт|пт|сб|вс)[, ]",
    r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}",
    r"\d{4}\s?年",
    r"\d{1,2} [a-z]{3}",
)
"""How an attribution begins."""

SENT_FROM = (
    *("Sent from ", "Sent via ", "Sent with ", "Get Outlook for ", "Von meinem ", "Gesendet von "),
    *("Envoyé de ", "Envoyé depuis ", "Enviado desde ", "Enviado do ", "Inviato da ", "Verstuurd vanaf "),
    *("Отправлено с ", "Skickat från ", "Sendt fra ", "Lähetetty ", "发自我的", "iPhoneから送信"),
)
"""How the line begins that a telephone adds."""

LIST_FOOTERS = (
    r"to unsubscribe(?: from|,|:| send| e-?mail| visit| go)",
    r"you received this message because you are subscribed",
    r"[^\n]{1,60} mailing list -- \S+@",
    r"more majordomo info at",
    r"https?://\S{1,200}/(?:listinfo|postorius)/",
)
"""How a line begins that only list software writes."""

LIST_FOOTERS_BELOW_RULER = (
    r"[^\n]{1,60} mailing[ -]list\b",
    r"[^\n]{0,40}\bunsubscribe\b",
    r"list (?:info|archives?|policy|guidelines)\b",
)
"""Lines that are a footer's where a ruler stands right above them."""

LIST_FOOTER_WORDS = (
    "nsubscribe",
    "ailing list",
    "ailing-list",
    "UNSUBSCRIBE",
    "ou received this message",
    "/listinfo/",
)
"""One of these is in every list footer."""

_LATER = r"\b[^\n]{0,80}\n?[^\n]{0,80}\b"
DISCLAIMERS = (
    r"confidentiality(?: notice| note| statement)?\b",
    r"(?:legal |e-?mail |important )?disclaimer\b",
    r"important(?: notice| confidentiality notice):",
    r"notice(?: of confidentiality)?:[^\n]{0,80}(?:e-?mail|message|confidential)",
    r"privileged (?:and|&|/) ?confidential",
    rf"this (?:e-?mail|message|communication|transmission|electronic mail){_LATER}(?:confidential|privileged)",
    r"this (?:e-?mail|message|communication)[^\n]{0,60} is intended (?:only|solely|exclusively|for)",
    r"the (?:information|contents?)(?: \w{1,20}){0,4} (?:in|of|by|with) this (?:e-?mail|message|communication)",
    r"if you (?:are not the intended recipient|have received this (?:e-?mail|message|communication))",
    rf"diese (?:e-?mail|nachricht){_LATER}(?:vertraulich|bestimmt)",
    rf"ce (?:message|courriel|courrier){_LATER}(?:confidentiel|destin)",
    rf"este (?:mensaje|correo|e-?mail|mensagem){_LATER}confidencia",
    rf"(?:questo messaggio|questa e-?mail|il presente messaggio){_LATER}riservat",
)
"""How a disclaimer begins."""

DISCLAIMER_WORDS = ("onfiden", "ONFIDEN", "isclaimer", "DISCLAIMER", "recipient", "ertraulich", "iservat")
"""One of these is in every disclaimer, in whatever case it begins."""
