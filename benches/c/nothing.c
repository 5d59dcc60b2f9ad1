/* Does nothing: what is left is loading it. A second program is made from this that is not linked with the library. */
int main(void)
{
    return 0;
}
