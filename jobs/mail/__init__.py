"""Mail: mailbox formats, headers, MIME to text, quoting, threads, windows, near-duplicates. Pure."""
