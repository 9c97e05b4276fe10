"""Where mail comes from: what is read, from which place, in which order. What a mail is, `jobs.mail` knows.

named        sources by the names that a user gives them
folders      the files of a folder; Maildirs
parts        the pieces that sources are read in, by any process
imap         folders of an IMAP account, from a cursor on
imap_errors  what an account's server refuses, for now or for good
objects      objects of an S3 bucket
cursors      how far each IMAP folder has been read
options      how all of them are read
"""
