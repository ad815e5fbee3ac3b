"""`posttrain ui`: a page on this machine for runs, data and chat.

It reads run folders, and starts the commands of `posttrain` as processes of their own: training (which goes on when the
page is closed), plans and inspections (which end with the request), and model servers for the chat. So no model and no
torch is ever loaded here.
"""
