"""Small mistakes, made on purpose, in the source of a port: which of them do its checks not see?"""
