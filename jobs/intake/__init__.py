"""From mail records to committed windows: what the split stage is made of.

decoding   records -> decoded mails, in worker processes
spool      the decoded mails: texts on disk, what threading needs in memory
plan       which thread, split, window and chunk every new mail goes to
overlap    near-identical texts on both sides of train and val/test
commit     the planned windows, written one segment each
exports    the archive as plain files; and back, for files of the original shape
"""
